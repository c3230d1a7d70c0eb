"""A managed engine that dies: who is blamed, what is kept, how long it rests.

The engine is a mock that can be told to break off with an error, as vLLM does.
"""

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from adapters import BaseModel, Version
from gateway.app import Turntable
from gateway.cli.listening import server_config
from gateway.cli.startup import plan_for
from gateway.engines.process import EngineProcess, EngineSpec
from gateway.settings import Settings
from gateway.wiring import Setup
from loadtest.bench import machine
from tests.adapters_on_disk import AnotherGateway
from tests.canaries import leaks
from tests.gateway.conftest import KEY, wait_until_ready
from tests.waiting import eventually

BASE = BaseModel(Path("base"), "0" * 64, {"model.layers.0.self_attn.q_proj": (16, 16)})
BREAKS_OFF = """
import os, sys, threading
from pathlib import Path

import uvicorn

from gateway.engines.plugin.key_guard import KeyGuard
from loadtest.mock_engine.app import MockApp
from loadtest.mock_engine.engine import MockEngine, MockSettings

port, signal = sys.argv[1:]

def break_off():
    while not Path(signal).exists():
        threading.Event().wait(0.02)
    print("RuntimeError: something in the engine broke", flush=True)
    os._exit(1)

threading.Thread(target=break_off, daemon=True).start()
app = KeyGuard(MockApp(MockEngine(MockSettings(tokens=4))), os.environ["VLLM_API_KEY"])
uvicorn.run(app, port=int(port), lifespan="off", log_level="warning")
"""


@dataclass(frozen=True)
class Fragile(EngineSpec):
    """An engine that breaks off as soon as a file exists."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", BREAKS_OFF, str(self.port), str(self.log_path.with_name("break"))]


class Managed:
    """A gateway in this process with an engine that it started itself."""

    def __init__(self, url: str, data_dir: Path, said: list[str], given_up: list[str]) -> None:
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=30)
        self.said = said
        self.given_up = given_up
        self.logs = data_dir / "logs"
        self._data_dir = data_dir

    @property
    def engine(self) -> dict[str, Any]:
        return dict(self.http.get("/admin/v1/engines").json()["data"][0])

    def break_off(self) -> None:
        (self.logs / "break").touch()

    def hold(self) -> None:
        (self.logs / "break").unlink()

    @property
    def engine_pids(self) -> list[int]:
        return [
            process.pid
            for process in machine.tree_of(os.getpid(), machine.read_processes())
            if b"break_off" in (command := Path(f"/proc/{process.pid}/cmdline").read_bytes())
            and b"gateway.engines.process_guard" not in command
        ]

    def signal(self, number: signal.Signals) -> None:
        for pid in self.engine_pids:
            os.kill(pid, number)

    def ask(self, model: str = "base", **fields: str) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]} | fields
        return self.http.post("/v1/chat/completions", json=body).status_code

    def ask_and_leave(self, model: str) -> None:
        """Begin a request that the engine never answers, and go while it runs."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "mock_fault": "hang"}
        with pytest.raises(httpx.ReadTimeout):
            self.http.post("/v1/chat/completions", json=body, timeout=0.5)
        assert eventually(lambda: self.engine["running"] == 0)

    def load_and_leave(self, name: str) -> Version:
        """Load a version that no request has used; what happens next happens right after its load."""
        other = AnotherGateway(self._data_dir, BASE)
        version = other.publish(name, self._data_dir / "sources" / name, 1)
        other.registry.set_pinned(name, True, actor="test")
        assert eventually(lambda: version.engine_name in self.engine["resident"])
        return version

    def state_of(self, version: Version) -> tuple[str, str]:
        found = self.http.get(f"/admin/v1/adapters/{version.name}").json()["versions"][version.version - 1]
        return found["state"], found["reason"]


@contextmanager
def managed(
    data_dir: Path, spec_of: type[EngineSpec] = Fragile, *, becomes_ready: bool = True, **changed: Any
) -> Iterator[Managed]:
    settings = Settings(data_dir=data_dir, **changed)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spec = spec_of(data_dir, "base", port, 8, 16, 16, None, 1, (), data_dir / "logs" / "engine.log")
    said: list[str] = []
    given_up: list[str] = []
    plan = plan_for(settings, None, is_cpu=False)
    setup = Setup(
        settings=settings,
        admin_key=KEY,
        engine_urls=(f"http://127.0.0.1:{port}",),
        spec=spec,
        base_dir=None,
        announce=said.append,
        give_up=given_up.append,
        plan=plan,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(server_config(Turntable(setup), settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        gateway = Managed(url, data_dir, said, given_up)
        try:
            if becomes_ready:
                wait_until_ready(url)
            with gateway.http:
                yield gateway
        finally:
            server.should_exit = True
            thread.join()


def pauses(said: Sequence[str]) -> list[float]:
    return [float(line.split()[-2]) for line in said if "restarting it in" in line]


def test_a_version_after_whose_load_the_engine_broke_off_is_quarantined_with_what_the_log_says(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        version = gateway.load_and_leave("bad")
        gateway.break_off()
        assert eventually(lambda: gateway.state_of(version)[0] == "quarantined")
        assert "something in the engine broke" in gateway.state_of(version)[1]
        assert "something in the engine broke" in gateway.engine["reason"]
        gateway.hold()
        wait_until_ready(str(gateway.http.base_url))
        assert gateway.engine["restarts"] >= 1
        assert version.engine_name not in gateway.engine["resident"]
        assert "something in the engine broke" in (gateway.logs / "engine.1.log").read_text()


@pytest.mark.parametrize("end", ["broken off", "left"])
def test_a_first_request_that_was_not_answered_does_not_clear_its_version(tmp_path: Path, end: str) -> None:
    with managed(tmp_path) as gateway:
        version = gateway.load_and_leave("bad")
        if end == "left":
            gateway.ask_and_leave("bad")
        else:
            assert gateway.ask("bad", mock_fault="drop") == 502
        gateway.break_off()
        assert eventually(lambda: gateway.state_of(version)[0] == "quarantined")


def test_a_version_whose_request_was_answered_is_clear(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        version = gateway.load_and_leave("good")
        assert gateway.ask("good") == 200
        gateway.break_off()
        assert eventually(lambda: gateway.engine["restarts"] >= 1)
        assert gateway.state_of(version)[0] == "ready"


def test_a_version_is_not_to_blame_for_a_kill_from_outside(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        version = gateway.load_and_leave("innocent")
        gateway.signal(signal.SIGKILL)
        assert eventually(lambda: gateway.engine["restarts"] == 1)
        wait_until_ready(str(gateway.http.base_url))
        assert gateway.state_of(version)[0] == "ready"
        assert version.engine_name in gateway.engine["resident"]


def test_an_engine_that_keeps_dying_rests_longer_each_time(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        gateway.break_off()
        assert eventually(lambda: len(pauses(gateway.said)) >= 3)
        gateway.hold()
        assert pauses(gateway.said)[:3] == [0.5, 1.5, 3.5]


def secret_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(v for v in variables if v.startswith(b"VLLM_API_KEY=")).decode().partition("=")[2]


def test_a_managed_engine_serves_its_gateway_only_and_has_another_secret_after_each_start(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        assert gateway.ask() == 200
        (pid,) = gateway.engine_pids
        first, url = secret_of(pid), gateway.engine["url"]
        assert len(first) >= 32
        with httpx.Client(base_url=url) as stranger:
            assert stranger.get("/health").status_code == 200
            assert {stranger.get(path).status_code for path in ("/v1/models", "/metrics", "/version", "/nowhere")} == {
                401
            }
            assert stranger.get("/v1/models", headers={"authorization": f"Bearer {first}"}).status_code == 200
        gateway.signal(signal.SIGKILL)
        assert eventually(lambda: gateway.engine["restarts"] == 1)
        wait_until_ready(str(gateway.http.base_url))
        assert gateway.ask() == 200
        (pid,) = gateway.engine_pids
        assert secret_of(pid) not in ("", first)
        seen = [Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in machine.read_processes()]
        assert not any(first.encode() in line for line in seen)
    assert leaks(tmp_path, first) == []


def test_the_operators_key_for_the_engine_is_the_one_that_it_demands(tmp_path: Path) -> None:
    with managed(tmp_path, engine_api_key="a key that the operator chose") as gateway:
        assert gateway.ask() == 200
        metrics = gateway.engine["url"] + "/metrics"
        assert httpx.get(metrics).status_code == 401
        told = {"authorization": "Bearer a key that the operator chose"}
        assert httpx.get(metrics, headers=told).status_code == 200


IMPOSTER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.path, "authorization" in self.headers, flush=True)
        self.send_response(200)
        self.send_header("content-length", "21")
        self.end_headers()
        self.wfile.write(b'{"version": "0.32.0"}')

    def log_message(self, *_):
        pass

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Imposter(EngineSpec):
    """What listens on the engine's port is healthy, and knows nothing."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", IMPOSTER, str(self.port)]


def test_another_process_on_the_engines_port_gets_neither_secret_nor_prompt(tmp_path: Path) -> None:
    heard = tmp_path / "logs" / "engine.log"
    with managed(tmp_path, Imposter, becomes_ready=False, start_timeout_s=3) as gateway:
        assert eventually(lambda: heard.exists() and heard.read_text().count("/turntable/proof/") > 2)
        assert gateway.ask() == 503
        assert eventually(lambda: bool(gateway.given_up))
    asked = [line.split() for line in heard.read_text().splitlines()]
    assert {authorised for _, authorised in asked} == {"False"}
    assert all(path == "/health" or path.startswith("/turntable/proof/") for path, _ in asked)


def test_an_engine_that_stands_still_gets_no_requests_and_serves_again_when_it_moves(tmp_path: Path) -> None:
    with managed(tmp_path, hang_timeout_s=5) as gateway:
        (pid,) = gateway.engine_pids
        gateway.signal(signal.SIGSTOP)
        assert eventually(lambda: gateway.engine["state"] == "hung")
        ready = gateway.http.get("/ready")
        assert ready.status_code == 503
        assert "has not responded to a liveness probe for 5 s" in ready.json()["error"]["message"]
        assert gateway.ask() == 503
        gateway.signal(signal.SIGCONT)
        wait_until_ready(str(gateway.http.base_url))
        assert gateway.ask() == 200
        assert (gateway.engine["restarts"], gateway.engine_pids) == (0, [pid])


def test_an_engine_that_goes_on_standing_still_is_restarted(tmp_path: Path) -> None:
    with managed(tmp_path, hang_timeout_s=0.5) as gateway:
        (pid,) = gateway.engine_pids
        gateway.signal(signal.SIGSTOP)
        assert eventually(lambda: gateway.engine["restarts"] == 1)
        wait_until_ready(str(gateway.http.base_url))
        assert gateway.ask() == 200
        assert pid not in gateway.engine_pids
        assert any("was hung for " in line for line in gateway.said)


async def test_stopping_an_engine_twice_closes_no_other_file(tmp_path: Path) -> None:
    spec = Imposter(tmp_path, "base", 0, 8, 16, 16, None, 1, (), tmp_path / "engine.log")
    process = await EngineProcess.start(spec, "key")
    await process.stop()
    mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(64)]  # among them the number that the pipe had
    try:
        await process.stop()
        assert all(os.fstat(number) for number in mine)
    finally:
        for number in mine:
            os.close(number)


def test_what_goes_wrong_in_a_restart_is_counted_and_tried_again(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        gateway.logs.rename(tmp_path / "elsewhere")
        gateway.logs.write_text("a file where the folder of the logs was")
        gateway.signal(signal.SIGKILL)
        counted = re.compile(r'^turntable_engine_supervision_failures_total{engine="[^"]+"} [1-9]', re.MULTILINE)
        assert eventually(lambda: bool(counted.search(gateway.http.get("/metrics").text)))
        assert gateway.ask() == 503
        gateway.logs.unlink()
        (tmp_path / "elsewhere").rename(gateway.logs)
        wait_until_ready(str(gateway.http.base_url))
        assert gateway.ask() == 200
        assert gateway.given_up == []
