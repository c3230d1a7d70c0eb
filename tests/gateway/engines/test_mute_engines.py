"""Attached engines that keep their connections and say nothing, and odd ones: who notices, and how others fare."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import Fault, MockSettings
from tests.gateway.conftest import KEY, running_gateway, wait_until_ready
from tests.waiting import eventually

ADAPTERS = "/v1/turntable/adapters"
ASKED = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
OLD_PLUGIN = {"max_loras": 4, "max_cpu_loras": 8, "max_lora_rank": 16, "loads": 0, "adapters": []}


class Engine(ThreadingHTTPServer):
    """Says what it was given by path; to anything else it sends headers and then nothing."""

    daemon_threads = True

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.told = {"/health": {}, "/version": {"version": "0.32.0"}} | told
        self.over = threading.Event()
        self.health_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_GET(self) -> None:
        if self.path == "/health":
            self.server.over.wait(self.server.health_s)
        found = self.server.told.get(self.path.partition("?")[0])
        body = b"" if found is None else json.dumps(found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", "1000")
        self.end_headers()
        self.server.over.wait(30)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@contextmanager
def engine_that_tells(**told: Any) -> Iterator[Engine]:
    with Engine(told) as engine:
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        try:
            yield engine
        finally:
            engine.over.set()
            engine.shutdown()


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=20)


def engines(http: httpx.Client) -> list[dict[str, Any]]:
    return list(http.get("/admin/v1/engines").json()["data"])


@pytest.mark.parametrize(
    ("limit", "stream"),
    [
        ("first_byte_timeout_s", True),
        ("total_timeout_s", True),
        ("total_timeout_s", False),
        ("idle_timeout_s", True),
        ("idle_timeout_s", False),
    ],
)
def test_an_engine_that_sends_headers_and_no_token_is_left_alone_and_ready_says_so(
    tmp_path: Path, limit: str, stream: bool
) -> None:
    settings = Settings(data_dir=tmp_path).model_copy(update={limit: 0.3})
    with engine_that_tells() as engine, running_gateway(settings, engine.url) as url, client(url) as http:
        wait_until_ready(url)
        answers = [http.post("/v1/chat/completions", json=ASKED | {"stream": stream}).status_code for _ in range(4)]
        assert answers == [504, 504, 504, 503]
        assert engines(http)[0]["circuit"] in ("open", "half_open")
        assert eventually(lambda: http.get("/ready").status_code == 503 or engines(http)[0]["circuit"] != "open")


def test_an_attached_engine_that_answers_its_health_check_late_is_not_taken_for_dead(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, hang_timeout_s=10)
    with engine_that_tells() as engine, running_gateway(settings, engine.url) as url, client(url) as http:
        wait_until_ready(url)
        engine.health_s = 2.0  # a health check waits for one second
        states = set()
        for _ in range(12):
            states.add(engines(http)[0]["state"])
            threading.Event().wait(0.5)
        assert states == {"ready"}
        assert eventually(lambda: engines(http)[0]["state"] == "hung")
        assert "has not responded to a liveness probe" in http.get("/ready").json()["error"]["message"]
        threading.Event().wait(3)
        assert engines(http)[0]["state"] == "hung"
        engine.health_s = 0.0
        assert eventually(lambda: engines(http)[0]["state"] == "ready")
        assert engines(http)[0]["restarts"] == 0


def test_a_stream_that_stops_in_its_middle_each_time_opens_the_circuit(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, idle_timeout_s=0.3)
    engine_settings = MockSettings(tokens=8, itl_ms=1, fault=Fault.HANG_MID_STREAM)
    with serving(engine_settings) as engine, running_gateway(settings, engine.url) as url, client(url) as http:
        wait_until_ready(url)
        for _ in range(3):
            assert "engine_idle_timeout" in http.post("/v1/chat/completions", json=ASKED | {"stream": True}).text
        assert http.post("/v1/chat/completions", json=ASKED).status_code == 503
        refused = http.get("/ready")
        assert refused.status_code == 503
        assert "circuit breaker is open" in refused.json()["error"]["message"]


def test_long_streams_that_are_cut_off_while_they_speak_say_nothing_against_the_engine(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, total_timeout_s=0.3)
    with serving(MockSettings(tokens=400, itl_ms=10)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        with client(url) as http:
            for _ in range(4):
                assert "engine_total_timeout" in http.post("/v1/chat/completions", json=ASKED | {"stream": True}).text
            assert engines(http)[0]["circuit"] == "closed"


@pytest.mark.parametrize(
    "odd",
    [OLD_PLUGIN, {}, {"adapters": 3}, [], "text", OLD_PLUGIN | {"slot_bytes": "many", "patches": None}],
    ids=["last month's plugin", "nothing", "a number", "a list", "a text", "wrong types"],
)
def test_an_engine_that_tells_nonsense_is_not_used_and_the_healthy_one_serves_on(tmp_path: Path, odd: Any) -> None:
    with (
        engine_that_tells(**{ADAPTERS: odd}) as strange,
        serving(MockSettings(tokens=2)) as healthy,
        running_gateway(Settings(data_dir=tmp_path), strange.url, healthy.url) as url,
        client(url) as http,
    ):
        wait_until_ready(url)
        assert eventually(lambda: "cannot be used" in engines(http)[0]["reason"])
        assert ADAPTERS in engines(http)[0]["reason"]
        assert [http.post("/v1/chat/completions", json=ASKED).status_code for _ in range(4)] == [200] * 4
        strange.told.pop(ADAPTERS)
        assert eventually(lambda: engines(http)[0]["state"] == "ready")


@pytest.mark.parametrize("path", ["/version", "/v1/models", "/metrics", ADAPTERS, "/v1/turntable/tokens"])
def test_no_odd_answer_ends_anything(tmp_path: Path, path: str) -> None:
    with serving(MockSettings(tokens=2)) as healthy, engine_that_tells(**{path: [[]]}) as strange:
        settings = Settings(data_dir=tmp_path, reconcile_every_s=0.2, idle_timeout_s=0.3)
        with running_gateway(settings, strange.url, healthy.url) as url, client(url) as http:
            wait_until_ready(url)
            limited = http.post("/admin/v1/keys", json={"name": "limited", "max_tokens": 50}).json()["key"]
            for _ in range(5):
                key = {"authorization": f"Bearer {limited}"}
                answer = http.post("/v1/chat/completions", json=ASKED, headers=key)
                assert answer.status_code in (200, 504)
                threading.Event().wait(0.1)
            assert engines(http)[1]["state"] == "ready"


def test_an_attached_engine_with_a_key_is_served_with_the_operators_and_named_without_it(tmp_path: Path) -> None:
    engine_settings = MockSettings(tokens=2, api_key="what the operator gave it")
    (tmp_path / "without").mkdir()
    with serving(engine_settings) as engine:
        with running_gateway(Settings(data_dir=tmp_path / "without"), engine.url) as url, client(url) as http:
            assert eventually(lambda: "engine_api_key" in engines(http)[0]["reason"])
        (tmp_path / "with").mkdir()
        settings = Settings(data_dir=tmp_path / "with", engine_api_key="what the operator gave it")
        with running_gateway(settings, engine.url) as url, client(url) as http:
            wait_until_ready(url)
            assert http.post("/v1/chat/completions", json=ASKED).status_code == 200
