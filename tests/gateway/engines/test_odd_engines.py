"""Engines that answer oddly: the client's answer still arrives, no row is lost, and no row says more than is known."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import create_engine, select

from gateway.engines.plugin.finished_requests import TOKENS
from gateway.inference.formats.completions import ChatCompletions
from gateway.metering import usage_ledger
from gateway.releases.canary import CanaryMonitor
from gateway.settings import Settings
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready

CHAT = "/v1/chat/completions"
HI = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "so"}, "finish_reason": "stop"}


@dataclass
class Script:
    """What the engine says to every request, and in turn to who asks what a request took."""

    status: int = 200
    body: bytes = b""
    tokens: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)


class Odd(Attached):
    """A gateway and its engine, which follows a script."""

    def __init__(self, url: str, script: Script, data_dir: Path) -> None:
        self.url, self.script, self.data_dir = url, script, data_dir
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=20)

    def says(self, body: bytes, status: int = 200) -> None:
        self.script.status, self.script.body = status, body

    def newest_row(self) -> dict[str, Any]:
        """The newest row of the ledger, once it is settled."""
        database = create_engine(f"sqlite:///{self.data_dir / 'turntable.db'}")
        query = (
            select(usage_ledger).where(usage_ledger.c.key_id != "turntable").order_by(usage_ledger.c.opened_us.desc())
        )
        try:
            for _ in range(500):
                self.http.get("/admin/v1/usage")  # which folds the journal
                with database.connect() as connection:
                    newest = connection.execute(query.limit(1)).mappings().first()
                if newest is not None and newest["state"] == "settled":
                    return dict(newest)
                threading.Event().wait(0.02)
        finally:
            database.dispose()
        raise AssertionError("the row stays open")


@contextmanager
def odd_engine(data_dir: Path, **settings: object) -> Iterator[Odd]:
    """A gateway attached to an engine that is healthy and follows a script."""
    script = Script()

    class Engine(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            if self.path.startswith(TOKENS) and script.tokens:
                self.answer(orjson.dumps(script.tokens.pop(0)), 200)
            else:
                is_known = self.path in ("/health", "/version")
                self.answer(b'{"version": "0.32.0"}' if is_known else b"", 200 if is_known else 404)

        def do_POST(self) -> None:
            script.asked.append(orjson.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.answer(script.body, script.status)

        def answer(self, body: bytes, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    chosen = Settings.model_validate({"data_dir": data_dir} | settings)
    with server, running_gateway(chosen, f"http://127.0.0.1:{server.server_port}") as url:
        wait_until_ready(url)
        gateway = Odd(url, script, data_dir)
        yield gateway
        gateway.http.close()
        server.shutdown()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    with odd_engine(tmp_path_factory.mktemp("odd")) as gateway:
        yield gateway


def answer(**fields: object) -> bytes:
    return orjson.dumps({"id": "x", "object": "chat.completion", "model": "base", "choices": [CHOICE]} | fields)


def stream(*, reason: str | None = "stop", usage: object = None, end: bytes = b"\n") -> bytes:
    counted = usage or {"prompt_tokens": 5, "completion_tokens": 1}
    head = {"id": "x", "object": "chat.completion.chunk", "model": "base"}
    choice = {"index": 0, "delta": {"content": "so"}, "finish_reason": reason}
    documents: list[dict[str, Any]] = [{"choices": [choice], "usage": counted}, {"choices": [], "usage": counted}]
    events = [b"data: " + orjson.dumps(head | document) + b"\n\n" for document in documents]
    return b"".join([*events, b"data: [DONE]\n\n", b": bye\n\n"]).replace(b"\n", end)


@pytest.mark.parametrize(
    ("usage", "booked"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 25}}, (10, 10, 2)),
        ({"prompt_tokens": -3, "completion_tokens": 2}, (0, 0, 2)),
        ({"prompt_tokens": 10, "completion_tokens": 2**63}, (10, 0, 0)),
        ({"prompt_tokens": "many", "completion_tokens": 2.5}, None),
        ("none", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_odd_usage_reaches_the_client_and_is_booked_as_an_estimate(
    odd: Odd, usage: object, booked: tuple[int, int, int] | None, is_stream: bool
) -> None:
    counted = usage if isinstance(usage, dict) else {"prompt_tokens": usage}
    odd.says(stream(usage=counted) if is_stream else answer(usage=usage))
    told = odd.http.post(CHAT, json=HI | {"stream": is_stream})
    assert told.status_code == 200
    assert "so" in told.text
    assert not is_stream or told.text.endswith("data: [DONE]\n\n")
    row = odd.newest_row()
    assert (row["status"], row["finish"]) == (200, "completed")
    if booked is None:
        assert row["evidence"] in ("estimated", "none")
        assert 0 <= row["prompt_tokens"] < 100
        assert 0 <= row["completion_tokens"] <= 5
    else:
        assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) == booked
        assert row["evidence"] == "estimated"


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_a_stream_is_read_whatever_its_lines_end_with_and_ends_with_its_end(odd: Odd, end: bytes) -> None:
    odd.says(stream(end=end))
    told = odd.http.post(CHAT, json=HI | {"stream": True}).text
    assert told.endswith('"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    assert odd.newest_row()["finish"] == "completed"


@pytest.mark.parametrize(
    "said",
    [stream(reason=None), b"data: [DONE]\n\n", b": nothing\n\ndata: [DONE]\n\n"],
    ids=["no reason", "nothing", "comment"],
)
def test_a_stream_that_does_not_say_how_it_finished_is_a_failure_for_client_and_ledger(odd: Odd, said: bytes) -> None:
    odd.says(said)
    told = odd.http.post(CHAT, json=HI | {"stream": True})
    assert '"code":"engine_failed"' in told.text
    assert "[DONE]" not in told.text
    row = odd.newest_row()
    assert (row["status"], row["finish"]) == (502, "engine_error")


@pytest.mark.parametrize("fields", [{"choices": []}, {"choices": [CHOICE | {"finish_reason": None}]}])
def test_an_answer_that_does_not_say_how_it_finished_is_a_failure(odd: Odd, fields: dict[str, Any]) -> None:
    odd.says(answer(usage={"prompt_tokens": 1}, **fields))
    assert odd.http.post(CHAT, json=HI).status_code == 502
    assert odd.newest_row()["finish"] == "engine_error"


def test_a_response_that_fails_halfway_ends_in_a_numbered_error(odd: Odd) -> None:
    created = {"type": "response.created", "sequence_number": 0, "response": {"model": "base"}}
    odd.says(b"event: response.created\ndata: " + orjson.dumps(created) + b"\n\n")
    told = odd.http.post("/v1/responses", json={"model": "base", "input": "hi", "stream": True}).text
    name, data = told.strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    assert orjson.loads(data.removeprefix("data: "))["sequence_number"] == 1


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_grammar_that_the_engine_cannot_compile_is_the_clients_mistake(odd: Odd, is_stream: bool) -> None:
    failure = (
        b'{"error": {"message": "Internal server error", "type": "InternalServerError", "param": null, "code": 500}}'
    )
    odd.says(b"data: " + failure + b"\n\ndata: [DONE]\n\n" if is_stream else failure, 200 if is_stream else 500)
    bound = HI | {"stream": is_stream, "structured_outputs": {"regex": "foo**"}}
    told = odd.http.post(CHAT, json=bound)
    assert (told.status_code, told.json()["error"]["param"]) == (400, "structured_outputs")
    assert odd.newest_row()["finish"] == "refused"
    assert odd.http.post(CHAT, json=HI | {"stream": is_stream}).status_code == 502


def test_a_defect_of_ours_is_booked_as_a_failure(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    odd.says(answer(usage={"prompt_tokens": 5, "completion_tokens": 1}))
    with monkeypatch.context() as patch:
        patch.setattr(ChatCompletions, "whole", broken)
        assert odd.http.post(CHAT, json=HI).status_code == 500
    row = odd.newest_row()
    assert (row["status"], row["finish"]) == (500, "engine_error")
    assert 'turntable_requests_total{model="base",status="500"}' in odd.http.get("/metrics").text


def test_a_failing_observer_of_requests_costs_neither_row_nor_answer(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    odd.says(answer(usage={"prompt_tokens": 5, "completion_tokens": 1}))
    monkeypatch.setattr("gateway.metrics.Metrics.of_answers", broken)
    for _ in range(2):
        assert odd.http.post(CHAT, json=HI).status_code == 200
    assert odd.newest_row()["completion_tokens"] == 1


def test_observers_that_fail_are_not_the_clients_concern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(CanaryMonitor, "ended", broken)
    with odd_engine(tmp_path) as gateway:
        gateway.says(answer(usage={"prompt_tokens": 5, "completion_tokens": 1}))
        assert gateway.http.post(CHAT, json=HI).status_code == 200
        assert gateway.newest_row()["completion_tokens"] == 1


def test_an_engine_that_has_not_ended_a_request_is_asked_again_until_it_has(tmp_path: Path) -> None:
    running: dict[str, Any] = {"running": True, "parts": []}
    with odd_engine(tmp_path) as gateway:
        gateway.script.tokens = [running, running, {"running": False, "parts": [["a", 7, 0, 40], ["b", 9, 0, 60]]}]
        gateway.says(stream().partition(b"data: [DONE]")[0].rpartition(b"data: ")[0])  # it breaks off
        assert "engine_failed" in gateway.http.post(CHAT, json=HI | {"stream": True}).text
        row = gateway.newest_row()
    assert (row["prompt_tokens"], row["completion_tokens"], row["evidence"]) == (16, 100, "exact")


PROMPTS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"prompt": ["x"] * 64, "n": 64}, "prompt"),
    ("/v1/completions", {"prompt": ["x"] * 3, "n": 128}, "n"),
    ("/v1/completions", {"prompt": ["x"] * 50, "n": 50}, "prompt"),
    ("/v1/completions", {"prompt": [[1]] * 129}, "prompt"),
    ("/v1/completions", {"prompt": "x", "n": "16384"}, "n"),
    ("/v1/completions", {"prompt": "x", "n": 16384.0}, "n"),
    ("/v1/completions", {"prompt": ["x"] * 100, "best_of": 3}, "prompt"),
]


@pytest.mark.parametrize(("path", "fields", "param"), PROMPTS)
def test_no_key_may_ask_for_more_sequences_than_one_request_may_hold(
    odd: Odd, path: str, fields: dict[str, Any], param: str
) -> None:
    secret = odd.http.post("/admin/v1/keys", json={"name": "app", "tenant": "acme"}).json()["key"]
    asked = len(odd.script.asked)
    for key in (KEY, secret):
        headers = {"authorization": f"Bearer {key}"}
        told = odd.http.post(path, json={"model": "base"} | fields, headers=headers)
        assert (told.status_code, told.json()["error"]["param"]) == (400, param), told.text
    assert len(odd.script.asked) == asked


def test_the_bound_on_sequences_is_the_operators(tmp_path: Path) -> None:
    with odd_engine(tmp_path, max_sequences=2) as gateway:
        gateway.says(answer(usage={"prompt_tokens": 1, "completion_tokens": 1}))
        assert gateway.http.post(CHAT, json=HI | {"n": 2}).status_code == 200
        refused = gateway.http.post(CHAT, json=HI | {"n": 3})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")


def salts(gateway: Odd, ask: Callable[[str, dict[str, Any]], None]) -> list[str | None]:
    """The salt that the engine gets for two tenants, for one of them again, and for a salt of its own."""
    made = [gateway.http.post("/admin/v1/keys", json={"name": t, "tenant": t}).json()["key"] for t in ("one", "two")]
    gateway.script.asked.clear()
    for key, fields in ((made[0], {}), (made[1], {}), (made[0], {}), (made[0], {"cache_salt": "mine"})):
        ask(key, fields)
    return [body.get("cache_salt") for body in gateway.script.asked]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": HI["messages"]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": HI["messages"], "max_tokens": 5}),
        ("/v1/embeddings", {"input": "hi"}),
    ],
)
def test_each_tenant_has_a_salt_for_the_engines_cache_that_no_client_can_name(
    odd: Odd, path: str, fields: dict[str, Any]
) -> None:
    def ask(key: str, more: dict[str, Any]) -> None:
        odd.http.post(path, json={"model": "base"} | fields | more, headers={"authorization": f"Bearer {key}"})

    one, two, again, own = salts(odd, ask)
    assert one == again
    assert len({one, two, own, "mine"}) == 4
    assert all(isinstance(salt, str) and len(salt) == 64 for salt in (one, two, own))
    assert odd.http.post(path, json={"model": "base", "cache_salt": 7} | fields).status_code == 400


def test_tenants_share_the_engines_cache_only_where_the_operator_says_so(tmp_path: Path) -> None:
    def ask(key: str, more: dict[str, Any]) -> None:
        gateway.http.post(CHAT, json=HI | more, headers={"authorization": f"Bearer {key}"})

    with odd_engine(tmp_path, share_prefix_cache=True) as gateway:
        *shared, own = salts(gateway, ask)
    assert shared == [None, None, None]
    assert own not in (None, "mine")
