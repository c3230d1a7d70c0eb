"""The only file that knows vLLM's URLs: what the gateway asks of one engine, and what its errors mean."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.engine.http import ConnectionPool, Request
from gateway.errors import AdapterRefusedError, EngineFailedError, GatewayError, InvalidRequestError

_HEALTHY_S = 1.0
_CONTEXT_LENGTH = re.compile(rb"maximum context length|longer than the maximum model length")
_VALIDATION = re.compile(r"'loc': 'body\.([\w.]+)', 'msg': '([^']*)'")
_NOTE = re.compile(r" \(parameter=.*\)$", re.MULTILINE)
_PATHS = re.compile(r"(?<![\w.])/(?:[\w.@-]+/)+[\w.@-]*")


class EngineClient:
    """One engine at `url`. Times are seconds: `idle_timeout_s` is the longest silence within an answer."""

    def __init__(self, url: str, *, connect_timeout_s: float, idle_timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._connections = ConnectionPool(self.url, connect_timeout_s=connect_timeout_s, idle_timeout_s=idle_timeout_s)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Request:
        """Send a request; leaving the context early closes the connection, and the engine stops working on it.

        Raises `EngineUnreachableError` only when the engine never saw the request.
        """
        return self._connections.request("POST", path, body, headers)

    async def is_healthy(self) -> bool:
        """Whether the engine answers its health check in time."""
        try:
            async with asyncio.timeout(_HEALTHY_S), self._connections.request("GET", "/health") as answer:
                await answer.read()
                return answer.status == 200
        except (GatewayError, TimeoutError):
            return False

    async def version(self) -> str:
        """The engine's own version."""
        return str((await self._get("/version"))["version"])

    async def load_adapter(self, engine_name: str, path: str) -> None:
        """Load an adapter into a slot; raises `AdapterRefusedError` in the engine's words when it will not."""
        body = orjson.dumps({"lora_name": engine_name, "lora_path": path})
        async with self.post("/v1/load_lora_adapter", body, {}) as answer:
            told = await answer.read()
        if answer.status != 200 and b"already been loaded" not in told:
            raise AdapterRefusedError(f"The engine refused the adapter: {engine_message(told)}")

    def close(self) -> None:
        """Close the connections that are idle."""
        self._connections.close()

    async def _get(self, path: str) -> dict[str, Any]:
        async with self._connections.request("GET", path) as answer:
            body = await answer.read()
        try:
            return dict(orjson.loads(body))
        except ValueError as error:
            raise EngineFailedError(f"The engine answered {answer.status} to {path}, without JSON.") from error


def translate(path: str, status: int, body: bytes) -> GatewayError:
    """An engine's error answer as one of ours: requests at fault keep its words and get a 400, all else is the
    engine's failure.
    """
    if status == 404 and b'"error"' not in body:
        return InvalidRequestError(f"This base model does not serve {path}; it needs another kind of model.")
    if status in (400, 404, 413, 422):
        code = "context_length_exceeded" if _CONTEXT_LENGTH.search(body) else None
        return InvalidRequestError(engine_message(body), param=_engine_param(body), code=code)
    if status == 501:
        return InvalidRequestError("This base model does not support what the request asks for.")
    return EngineFailedError("The engine failed on this request; its log has the details.")


def engine_message(body: bytes) -> str:
    """The engine's explanation in one line, with file paths and its parameter note taken out."""
    try:
        document = orjson.loads(body)
        message = document.get("error", document).get("message") or document.get("detail")
    except (ValueError, AttributeError):
        message = None
    text = str(message or "no reason given")
    if found := _VALIDATION.search(text):
        text = f"'{found[1]}': {found[2]}"
    return _PATHS.sub("<path>", _NOTE.sub("", text).splitlines()[0])[:500]


def _engine_param(body: bytes) -> str | None:
    try:
        param = orjson.loads(body)["error"]["param"]
    except (ValueError, KeyError, TypeError):
        return None
    return param.removeprefix("body.") if isinstance(param, str) else None
