"""Client for one OpenAI-compatible server: streamed chat requests timed as bytes arrive; GET and POST of JSON."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import orjson

from loadtest.http1 import Connection, FailureError
from loadtest.records import INTERRUPTED, RequestRecord
from loadtest.sse import EventReader, error_message
from loadtest.workload import RequestSpec

__all__ = ["INTERRUPTED", "ChatClient", "RequestRecord"]

CALL_TIMEOUT_S = 10.0
MOST_IDLE_S = 4.0
"""Servers drop idle connections after five seconds; a request must not be on its way to one just then."""


class ChatClient:
    """Sends chat requests to one OpenAI-compatible server over kept-alive connections."""

    def __init__(self, base_url: str, key: str | None, timeout_s: float, clock: Callable[[], float]) -> None:
        parts = urlsplit(base_url)
        self._clock = clock
        self._timeout_s = timeout_s
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        lines = [
            f"POST {parts.path}/v1/chat/completions HTTP/1.1",
            f"Host: {parts.netloc.rpartition('@')[2]}",
            "Content-Type: application/json",
            "Accept: text/event-stream",
            *([f"Authorization: Bearer {key}"] if key else []),
            "Content-Length: ",
        ]
        self._head = "\r\n".join(lines).encode()
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        # What the environment says of proxies is not for the server under test.
        self._calls = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=CALL_TIMEOUT_S,
            follow_redirects=True,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in tuple(self._open):
            connection.close()
        await self._calls.aclose()
        # The event loop closes the sockets of aborted connections in its next turn.
        await asyncio.sleep(0)

    async def get(self, url: str) -> tuple[int, Any]:
        """Send a GET; returns status and JSON (None for other bodies). Raises httpx.HTTPError or TimeoutError."""
        return await self._call("GET", url)

    async def post(self, url: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Send a POST; returns status and JSON (None for other bodies). Raises httpx.HTTPError or TimeoutError."""
        return await self._call("POST", url, body)

    async def _call(self, method: str, url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            response = await self._calls.request(method, url, json=body)
        return response.status_code, _json(response.content)

    async def chat(self, spec: RequestSpec, record: RequestRecord) -> None:
        """Send one request and fill its record with times, tokens or error; raises only CancelledError."""
        try:
            await self._within_timeout(self._stream(spec, record), record)
        except FailureError as failure:
            record.error, record.message = failure.kind, str(failure)
        except TimeoutError:
            record.error, record.message = "timeout", "no complete answer in time"
        except OSError as error:
            record.error = "connection" if record.status is None else "truncated"
            record.message = str(error) or type(error).__name__
        except asyncio.CancelledError:
            record.error = INTERRUPTED
            raise
        finally:
            record.end_s = self._clock()

    async def _within_timeout(self, work: Coroutine[Any, Any, None], record: RequestRecord) -> None:
        async with asyncio.timeout(self._timeout_s):
            await work

    async def _stream(self, spec: RequestSpec, record: RequestRecord) -> None:
        body: dict[str, Any] = {
            "model": spec.model,
            "messages": spec.messages,
            "max_tokens": spec.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if spec.exact:
            body |= {"ignore_eos": True, "min_tokens": spec.max_tokens}
        data = orjson.dumps(body)
        answer = _RecordedResponse(record, self._clock)
        connection = await self._connection()
        try:
            await connection.send(b"%b%d\r\n\r\n%b" % (self._head, len(data), data), answer)
        except BaseException:
            connection.close()
            raise
        if connection.open:
            connection.idle_since_s = self._clock()
            self._idle.append(connection)
        answer.check_complete()

    async def _connection(self) -> Connection:
        # The one used last first: the others grow old together and are closed together.
        while self._idle:
            connection = self._idle.pop()
            if connection.open and self._clock() - connection.idle_since_s < MOST_IDLE_S:
                return connection
            connection.close()
        connection = Connection(self._open.discard)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, self._host, self._port, ssl=self._ssl)
        self._open.add(connection)
        return connection


class _RecordedResponse:
    """Writes one streamed response on its record, as its bytes arrive."""

    def __init__(self, record: RequestRecord, clock: Callable[[], float]) -> None:
        self._record = record
        self._clock = clock
        self._events = EventReader(record)
        self._error_body: list[bytes] | None = None

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._record.status = status
        named = next((value for name, value in headers.items() if name.lower() == b"content-type"), b"")
        content_type = named.partition(b";")[0].strip().lower()
        if status != 200:
            self._error_body = []
        elif content_type != b"text/event-stream":
            kind = content_type.decode(errors="replace") or "of no type"
            raise FailureError("malformed", f"the answer is {kind}, not an event stream")

    def on_data(self, data: bytes) -> None:
        if self._error_body is None:
            self._events.feed(data, self._clock())
        else:
            self._error_body.append(data)

    def check_complete(self) -> None:
        """Raise FailureError when the complete response is an error, is truncated, or has no tokens."""
        if self._error_body is not None:
            raise FailureError(f"http_{self._record.status}", error_message(b"".join(self._error_body)))
        if not self._events.done:
            raise FailureError("truncated", "the stream ended without [DONE]")
        if not self._record.chunk_s and not self._record.completion_tokens:
            raise FailureError("no_tokens", "the answer has no tokens")
        if self._record.finish_reason is None:
            raise FailureError("no_finish_reason", "the answer ended without a finish reason")


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
