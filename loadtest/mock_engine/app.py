"""ASGI application of the mock engine: routes, vLLM's adapter calls with their errors, `GET /metrics`; and its server.

`serving` runs it in a thread of this process, for tests; `serve` in the foreground.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

import orjson
import uvicorn

from loadtest.mock_engine.completions import chat, completions
from loadtest.mock_engine.engine import MockEngine, MockSettings
from loadtest.mock_engine.exchange import MockExchange, Receive, RejectedError, Scope, Send
from loadtest.mock_engine.wire import VERSION, model_list

PROMETHEUS_TEXT = b"text/plain; version=0.0.4; charset=utf-8"

_POLL_S, _MOST_POLLS = 0.01, 200


def metrics_text(engine: MockEngine) -> bytes:
    """Render vLLM's metrics that the counters can answer, in Prometheus' text format."""
    labels = f'engine="0",model_name={json.dumps(engine.settings.served_model_name)}'
    rows = (
        ("vllm:num_requests_running", "gauge", "Number of requests that run", engine.running),
        ("vllm:num_requests_waiting", "gauge", "Number of requests that wait", engine.waiting),
        ("vllm:prompt_tokens_total", "counter", "Number of prompt tokens", engine.prompt_tokens),
        ("vllm:generation_tokens_total", "counter", "Number of generated tokens", engine.generation_tokens),
        ("vllm:prompt_tokens_created", "gauge", "Number of prompt tokens", engine.started_s),
    )
    lines = []
    for name, kind, help_text, value in rows:
        lines += [f"# HELP {name} {help_text}.", f"# TYPE {name} {kind}", f"{name}{{{labels}}} {float(value)}"]
    return "".join(f"{line}\n" for line in lines).encode()


class MockApp:
    """ASGI application of one mock engine."""

    def __init__(self, engine: MockEngine) -> None:
        self._engine = engine
        self._routes: dict[str, tuple[str, Callable[[MockExchange], Awaitable[None]]]] = {
            "/health": ("GET", _health),
            "/version": ("GET", _version),
            "/v1/models": ("GET", _models),
            "/v1/chat/completions": ("POST", chat),
            "/v1/completions": ("POST", completions),
            "/v1/load_lora_adapter": ("POST", _load),
            "/v1/unload_lora_adapter": ("POST", _unload),
            "/metrics": ("GET", _metrics),
            "/v1/turntable/tokens": ("GET", _tokens),
            "/mock/stats": ("GET", _stats),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = MockExchange(self._engine, scope, receive, send)
        route = self._routes.get(scope["path"])
        if not self._authorised(scope["path"], exchange.headers):
            await exchange.answer(401, b'{"error":"Unauthorized"}')
        elif route is None:
            await exchange.answer(404, b'{"detail":"Not Found"}')
        elif route[0] != scope["method"]:
            await exchange.answer(405, b'{"detail":"Method Not Allowed"}')
        else:
            try:
                await route[1](exchange)
            except RejectedError as refusal:
                await exchange.answer(refusal.status, refusal.body)

    def _authorised(self, path: str, headers: dict[bytes, bytes]) -> bool:
        key = self._engine.settings.api_key
        if not key or not path.startswith("/v1"):
            return True
        return headers.get(b"authorization") == f"Bearer {key}".encode()


async def _health(exchange: MockExchange) -> None:
    await exchange.answer(200, b"", content_type=None)


async def _version(exchange: MockExchange) -> None:
    await exchange.answer(200, orjson.dumps({"version": VERSION}))


async def _stats(exchange: MockExchange) -> None:
    await exchange.answer(200, orjson.dumps(exchange.engine.stats()))


async def _metrics(exchange: MockExchange) -> None:
    await exchange.answer(200, metrics_text(exchange.engine), content_type=PROMETHEUS_TEXT)


async def _tokens(exchange: MockExchange) -> None:
    engine, name = exchange.engine, parse_qs(exchange.query.decode())["request"][0]
    if not engine.settings.tells_tokens:
        raise RejectedError(404, "NotFoundError", "Not Found")
    work = engine.works.get(name)
    for _ in range(_MOST_POLLS):
        if work is None or not work.is_running:
            break
        await asyncio.sleep(_POLL_S)
    parts = [] if work is None else [[name, work.prompt_tokens, 0, work.generation_tokens]]
    await exchange.answer(200, orjson.dumps({"running": work is not None and work.is_running, "parts": parts}))


async def _models(exchange: MockExchange) -> None:
    engine = exchange.engine
    await exchange.answer(200, model_list(engine.settings.served_model_name, engine.adapters))


async def _load(exchange: MockExchange) -> None:
    body = await exchange.json_body()
    name, path = body.get("lora_name"), body.get("lora_path")
    engine = exchange.engine
    if not name or not path:
        raise _refused("Both 'lora_name' and 'lora_path' must be provided.")
    if name == engine.settings.served_model_name:
        raise _refused(f"The lora adapter '{name}' conflicts with a served base model.")
    if name in engine.adapters and not body.get("load_inplace"):
        advice = "If you want to load the adapter in place, set 'load_inplace' to True."
        raise _refused(f"The lora adapter '{name}' has already been loaded. {advice}")
    if not (Path(path) / "adapter_config.json").is_file():
        raise RejectedError(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for <path>")
    await engine.load(name, path)
    success = f"Success: LoRA adapter '{name}' added successfully."
    await exchange.answer(200, success.encode(), content_type=None)


async def _unload(exchange: MockExchange) -> None:
    name = (await exchange.json_body()).get("lora_name")
    adapters = exchange.engine.adapters
    if not name:
        raise _refused("'lora_name' needs to be provided to unload a LoRA adapter.")
    if name not in adapters:
        raise RejectedError(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
    del adapters[name]
    success = f"Success: LoRA adapter '{name}' removed successfully."
    await exchange.answer(200, success.encode(), content_type=None)


def _refused(message: str) -> RejectedError:
    return RejectedError(400, "InvalidUserInput", message)


@dataclass(frozen=True, slots=True)
class MockServer:
    """A running mock engine at `url`; `engine` gives access to its state."""

    url: str
    engine: MockEngine


@contextmanager
def serving(settings: MockSettings | None = None) -> Iterator[MockServer]:
    """Serve a mock engine on a free loopback port for the length of the `with` block."""
    engine = MockEngine(settings or MockSettings())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(MockApp(engine), lifespan="off", log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        # The listener takes connections from here on, so nobody has to wait for the thread.
        thread.start()
        try:
            yield MockServer(f"http://127.0.0.1:{listener.getsockname()[1]}", engine)
        finally:
            server.should_exit = True
            thread.join()


def serve(engine: MockEngine, host: str, port: int) -> None:
    """Serve a mock engine until interrupted."""
    uvicorn.run(MockApp(engine), host=host, port=port, lifespan="off", access_log=False)
