"""The mock engine as a plain ASGI application: its routes, and vLLM's adapter calls with their errors."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

import orjson

from loadtest.mock_engine.chat import chat
from loadtest.mock_engine.completions import completions
from loadtest.mock_engine.engine import MockEngine
from loadtest.mock_engine.exchange import MockExchange, Receive, RejectedError, Scope, Send
from loadtest.mock_engine.metrics import PROMETHEUS_TEXT, metrics_text
from loadtest.mock_engine.wire import VERSION, model_list

_POLL_S, _MOST_POLLS = 0.01, 200


class MockApp:
    """The ASGI application of one mock engine."""

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
