"""The only file that knows vLLM's URLs. Speaks HTTP to one engine over aiohttp and turns its failures into ours."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import orjson

from gateway.errors import (
    AdapterRefusedError,
    EngineBrokeOffError,
    EngineFailedError,
    EngineTimeoutError,
    EngineUnreachableError,
    GatewayError,
    InvalidRequestError,
)

_KEEP_ALIVE_S = 3.0  # less than the five seconds after which vLLM closes an idle connection
_JSON = {"content-type": "application/json"}
_CONTEXT_LENGTH = re.compile(rb"maximum context length|longer than the maximum model length")
_VALIDATION = re.compile(r"'loc': 'body\.([\w.]+)', 'msg': '([^']*)'")
_NOTE = re.compile(r" \(parameter=.*\)$", re.MULTILINE)
_PATHS = re.compile(r"(?<![\w.])/(?:[\w.@-]+/)+[\w.@-]*")


class EngineResponse:
    """An answer of the engine whose headers have come: `status`, then either `read()` or `chunks()`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status

    async def read(self) -> bytes:
        """The whole body; raises `EngineBrokeOffError`."""
        with _engine_errors():
            return await self._response.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, chunk by chunk; raises `EngineBrokeOffError`."""
        with _engine_errors():
            async for chunk in self._response.content.iter_any():
                yield chunk


class EngineClient:
    """One engine at `url`. Times are seconds: `idle_timeout_s` is the longest silence within an answer."""

    def __init__(self, url: str, *, connect_timeout_s: float, idle_timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s, sock_read=idle_timeout_s)
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "EngineClient":
        """Open the one session of the process's life; it belongs to the running event loop."""
        self._session = aiohttp.ClientSession(
            self.url,
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            auto_decompress=False,
            skip_auto_headers=("accept-encoding", "user-agent"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @contextlib.asynccontextmanager
    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[EngineResponse]:
        """Send a request; leaving the context early closes the connection, and the engine stops working on it.

        Raises `EngineUnreachableError` only when the engine never saw the request.
        """
        with _engine_errors():
            response = await self._session.post(path, data=body, headers={**_JSON, **headers})
        try:
            yield EngineResponse(response)
        finally:
            response.close()  # a finished response is already back in the pool; an unfinished one must not be

    async def is_healthy(self) -> bool:
        """Whether the engine answers its health check within a second."""
        try:
            async with asyncio.timeout(1), self._session.get("/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def models(self) -> list[dict[str, Any]]:
        """The models the engine lists: the base first, then the adapters it knows by name."""
        with _engine_errors():
            async with self._session.get("/v1/models") as response:
                return list(orjson.loads(await response.read())["data"])

    async def version(self) -> str:
        """The engine's own version."""
        with _engine_errors():
            async with self._session.get("/version") as response:
                return str(orjson.loads(await response.read())["version"])

    async def load_adapter(self, engine_name: str, path: str) -> None:
        """Load an adapter into a slot; raises `AdapterRefusedError` in the engine's words when it will not."""
        body = orjson.dumps({"lora_name": engine_name, "lora_path": path})
        with _engine_errors():
            async with self._session.post("/v1/load_lora_adapter", data=body, headers=_JSON) as response:
                answer = await response.read()
        if response.status == 200 or b"already been loaded" in answer:
            return
        raise AdapterRefusedError(f"The engine refused the adapter: {engine_message(answer)}")


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


@contextlib.contextmanager
def _engine_errors() -> Any:
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise EngineUnreachableError from error
    except TimeoutError as error:
        raise EngineTimeoutError(
            "The engine fell silent for too long; try again, or with fewer tokens.", code="engine_idle_timeout"
        ) from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise EngineBrokeOffError from error
