"""Whole answers of every length: each reaches its client, or ends with a sentence; none holds its place."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.engines.client import EngineClient
from gateway.errors import EngineAnswerTooLargeError
from gateway.inference.formats import APIS
from gateway.settings import Settings
from tests.gateway.conftest import KEY, running_gateway, wait_until_ready
from tests.gateway.engines.byte_servers import Server, listening, pool_to

KIB = 1 << 10
SIZES = [1, 255 * KIB, 257 * KIB, 10 << 20]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "input_tokens": 3, "output_tokens": 2}
ASKED: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1, 2]},
}


def adapters(count: int) -> bytes:
    """What vLLM says of its models: the base and `count` adapters."""
    cards = [
        {
            "id": f"adapter-{n}@{n:064}",
            "object": "model",
            "root": f"/srv/adapters/{n:064}",
            "permission": [{"x": "y" * 300}],
        }
        for n in range(count)
    ]
    return json.dumps({"object": "list", "data": [{"id": "base", "max_model_len": 512}, *cards]}).encode()


def answers(text: str) -> Mapping[str, dict[str, Any]]:
    """A whole answer of each API that holds the text."""
    message = {"role": "assistant", "content": text}
    part = {"type": "output_text", "text": text}
    return {
        "/v1/chat/completions": {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]},
        "/v1/completions": {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]},
        "/v1/responses": {"status": "completed", "output": [{"type": "message", "content": [part]}]},
        "/v1/embeddings": {"data": [{"index": 0, "embedding": text}]},
        "/v1/messages": {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"},
        "/v1/messages/count_tokens": {"input_tokens": 1, "text": text},
        "/tokenize": {"tokens": [1], "text": text},
        "/detokenize": {"prompt": text},
    }


class Engine(ThreadingHTTPServer):
    """An engine whose answers, good and bad, hold a text of `size` bytes."""

    daemon_threads = True
    size = 1
    status = 200
    models = adapters(0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_GET(self) -> None:
        known = {"/health": b"", "/version": b'{"version": "0.32.0"}', "/v1/models": self.server.models}
        self.answer(200 if self.path in known else 404, known.get(self.path, b""))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        text = "x" * self.server.size
        document = answers(text)[self.path] | {"usage": USAGE}
        if self.server.status != 200:
            document = {"error": {"message": text, "param": None}}
        self.answer(self.server.status, json.dumps(document).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


class Attached:
    """A gateway with the engine above."""

    def __init__(self, engine: Engine, url: str) -> None:
        self.engine = engine
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=20)

    def ask(self, path: str, size: int, status: int = 200) -> httpx.Response:
        self.engine.size, self.engine.status = size, status
        return self.http.post(path, json={"model": "base", **ASKED[path]})

    def running(self) -> int:
        return int(self.http.get("/admin/v1/engines").json()["data"][0]["running"])


@contextmanager
def attached_to_long_answers(settings: Settings, models: bytes = Engine.models) -> Iterator[Attached]:
    with Engine(("127.0.0.1", 0), Handler) as engine:
        engine.models = models
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        with running_gateway(settings, f"http://127.0.0.1:{engine.server_port}") as url:
            wait_until_ready(url)
            gateway = Attached(engine, url)
            with gateway.http:
                yield gateway
        engine.shutdown()


@pytest.fixture(scope="module")
def attached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    with attached_to_long_answers(Settings(data_dir=tmp_path_factory.mktemp("long"))) as gateway:
        yield gateway


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", APIS)
def test_a_whole_answer_of_any_length_arrives(attached: Attached, path: str, size: int) -> None:
    answer = attached.ask(path, size)
    assert answer.status_code == 200
    assert "x" * size in answer.text
    assert attached.running() == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", APIS)
def test_a_refusal_of_any_length_arrives_as_a_short_one(attached: Attached, path: str, size: int) -> None:
    answer = attached.ask(path, size, status=400)
    assert answer.status_code == 400
    assert len(answer.content) < 2 * KIB
    assert attached.running() == 0


def test_an_answer_above_the_operators_limit_is_a_502_that_says_what_to_do_and_frees_its_place(tmp_path: Path) -> None:
    with attached_to_long_answers(Settings(data_dir=tmp_path, max_answer_bytes=300 * KIB)) as attached:
        assert attached.ask("/v1/chat/completions", 299 * KIB).status_code == 200
        answer = attached.ask("/v1/chat/completions", 10 << 20)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (502, "engine_answer_too_large")
        assert "307,200 bytes" in error["message"]
        assert "stream" in error["message"]
        assert attached.running() == 0
        assert attached.ask("/v1/chat/completions", 1).status_code == 200


def test_a_key_with_a_limit_is_served_by_an_engine_that_knows_many_adapters(tmp_path: Path) -> None:
    with attached_to_long_answers(Settings(data_dir=tmp_path), models=adapters(2000)) as attached:
        key = attached.http.post("/admin/v1/keys", json={"name": "limited", "max_tokens": 100}).json()["key"]
        asked = {"model": "base", **ASKED["/v1/completions"]}
        answer = attached.http.post("/v1/completions", json=asked, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200


async def test_the_gateways_own_questions_take_answers_of_any_length() -> None:
    body = adapters(2000)
    assert len(body) > 512 * KIB
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    async with asyncio.timeout(10), listening(server) as url:
        client = EngineClient(url, connect_timeout_s=5, idle_timeout_s=5)
        assert await client.context_tokens() == 512
        client.close()


async def test_a_long_answer_may_be_looked_at_before_it_is_read() -> None:
    body = b"x" * (1 << 20)
    server = Server(b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    async with asyncio.timeout(10), pool_to(server) as pool, pool.request("GET", "/") as connection:
        seen = await connection.peek()
        assert 0 < len(seen) < len(body)
        assert await connection.read() == body


async def test_more_than_the_most_is_not_gathered_and_its_connection_not_kept() -> None:
    body = b"x" * (1 << 20)
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    async with pool_to(server, max_answer_bytes=1 << 16) as pool:
        for _ in range(2):
            with pytest.raises(EngineAnswerTooLargeError):
                async with pool.request("GET", "/") as connection:
                    await connection.read()
    assert server.connections == 2
