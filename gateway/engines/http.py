"""HTTP/1.1 client for one engine: a pool of keep-alive connections, one request at a time on each.

A general-purpose client spends most of its time on features that a gateway does not need: redirects, cookies,
compression, proxies, encodings (measurements in docs/decisions/0007).
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from gateway.errors import (
    EngineAnswerTooLargeError,
    EngineBrokeOffError,
    EngineTimeoutError,
    EngineUnreachableError,
    GatewayError,
)

MAX_ANSWER_BYTES = 64 << 20
_KEEP_ALIVE_S = 3.0  # less than the five seconds after which vLLM closes an idle connection
_MAX_BUFFERED_BYTES = 256 << 10


class EngineConnection(asyncio.Protocol):
    """One connection and the response arriving on it; `read` takes responses of at most `max_answer_bytes`."""

    def __init__(self, idle_timeout_s: float, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: GatewayError | None = None
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._last_data_s = 0.0
        self._has_headers = False
        self._is_paused = False
        self._on_first_body: Callable[[], None] | None = None
        self.is_complete = True
        """The whole response has arrived."""
        self.has_body = False
        """Part of the response body has arrived."""
        self.status = 0
        self.idle_since_s = 0.0

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent on this connection.

        Not while part of the response is unread, because the next response would begin with it.
        """
        is_fresh = time.monotonic() - self.idle_since_s < _KEEP_ALIVE_S
        is_read = self.is_complete and not self._buffer
        return is_read and self._error is None and is_fresh and not self._transport.is_closing()

    async def send(self, request: bytes) -> int:
        """Send a whole request; returns the response status once the headers have arrived.

        Raises `EngineBrokeOffError` and `EngineTimeoutError`, as do `read` and `next_chunk`.
        """
        self._parser = httptools.HttpResponseParser(self)
        self._has_headers = self.is_complete = self.has_body = False
        self._on_first_body = None
        self._last_data_s = self._loop.time()
        if self._timer is None:
            self._start_timer(self._idle_timeout_s)
        self._transport.write(request)
        while not self._has_headers:
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """Read the whole body; raises `EngineAnswerTooLargeError` beyond `max_answer_bytes`."""
        chunks, size = [], 0
        while chunk := await self.next_chunk():  # emptied as it fills: a full buffer pauses reading
            size += len(chunk)
            if size > self._max_answer_bytes:
                raise EngineAnswerTooLargeError(self._max_answer_bytes)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def peek(self) -> bytes:
        """Return a short body whole, or the beginning of a long one, without consuming it."""
        while not self.is_complete and not self._is_paused:
            await self._wait()
        return b"".join(self._buffer)

    async def next_chunk(self) -> bytes:
        """Return the body data that has arrived since the last call, waiting for some; empty at the end."""
        while not self._buffer and not self.is_complete:
            await self._wait()
        return self._take_buffer()

    async def pump(self, sink: Callable[[bytes], bool]) -> None:
        """Pass body data to `sink` as it arrives, without waking this task for it.

        Returns at the end of the body, or once `sink` returns False because it cannot take more now. Raises what `sink`
        raises.
        """
        if self._buffer and not sink(self._take_buffer()):
            return
        if self.is_complete:
            return
        self._sink = sink
        try:
            await self._wait()
        finally:
            self._sink = None

    def on_first_body(self, callback: Callable[[], None]) -> None:
        """Call back once the first body data arrives; at once if some has arrived."""
        if self.has_body:
            callback()
        else:
            self._on_first_body = callback

    def close(self) -> None:
        """Close at once; the engine then aborts the request."""
        self._stop_timer()
        self._transport.abort()

    async def _wait(self) -> None:
        """Wait for data, a full buffer or the end of the response."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _deliver(self, sink: Callable[[bytes], bool]) -> None:
        try:
            if self._buffer and not sink(self._take_buffer()):
                self._sink = None
                self._wake()
        except Exception as error:
            self._sink = None
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)

    def _take_buffer(self) -> bytes:
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._buffered_bytes = 0
        if self._is_paused:
            self._is_paused = False
            self._last_data_s = self._loop.time()  # while reading was paused, no data could arrive
            self._transport.resume_reading()
        return data

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            if self._error is not None and not self.is_complete:
                self._waiter.set_exception(self._error)
            else:
                self._waiter.set_result(None)

    def _fail(self, error: GatewayError) -> None:
        if self._error is None:
            self._error = error
        self._stop_timer()
        self._wake()

    def _start_timer(self, wait_s: float) -> None:
        self._timer = self._loop.call_later(wait_s, self._check_idle)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_idle(self) -> None:
        if self.is_complete:  # the next request starts a timer; cancelling this one for each response would cost more
            self._timer = None
            return
        remaining_s = self._last_data_s + self._idle_timeout_s - self._loop.time()
        if remaining_s > 0 or self._is_paused:
            self._start_timer(max(remaining_s, 0.05))
        else:
            self._fail(
                EngineTimeoutError(
                    f"The engine sent no data for {self._idle_timeout_s:g} s; try again, or ask for fewer tokens.",
                    code="engine_idle_timeout",
                )
            )

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._last_data_s = self._loop.time()
        try:
            if self.is_complete:
                raise httptools.HttpParserError("data without a request")
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(EngineBrokeOffError())
            self._transport.abort()
        else:
            if self._sink is not None:
                self._deliver(self._sink)
                if not self.is_complete:
                    return
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(EngineBrokeOffError())

    # httptools.HttpResponseParser
    def on_message_begin(self) -> None:
        """Handle the first byte of a response; a second one without a request is an error."""
        if self.is_complete:
            raise EngineBrokeOffError

    def on_headers_complete(self) -> None:
        """Handle the end of the headers."""
        status = self._parser.get_status_code()
        if status >= 200:  # an interim response is followed by the final one
            self.status = status
            self._has_headers = True

    def on_body(self, body: bytes) -> None:
        """Handle body data; a full buffer pauses reading."""
        if not self.has_body:
            self.has_body = True
            if self._on_first_body is not None:
                self._on_first_body()
        self._buffer.append(body)
        self._buffered_bytes += len(body)
        if self._buffered_bytes > _MAX_BUFFERED_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Handle the end of the response."""
        if not self._has_headers:
            return
        self.is_complete = True
        self.idle_since_s = time.monotonic() if self._parser.should_keep_alive() else float("-inf")


class Request:
    """One request as a context, which yields the connection once the response headers have arrived.

    Leaving it before the response is complete closes the connection. Entering raises `EngineUnreachableError` when the
    engine received nothing of the request, `EngineBrokeOffError`, `EngineTimeoutError`.
    """

    __slots__ = ("_connection", "_message", "_pool")

    def __init__(self, pool: "ConnectionPool", message: bytes) -> None:
        self._pool = pool
        self._message = message
        self._connection: EngineConnection

    async def __aenter__(self) -> EngineConnection:
        self._connection = await self._pool.send_message(self._message)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        self._pool.release(self._connection)


class ConnectionPool:
    """Keep-alive connections to the engine at `url`, opened on demand."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float,
        idle_timeout_s: float,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2].encode()
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._idle: list[EngineConnection] = []
        self.api_key: str | None = None
        """The engine's API key, sent with each request."""

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> "Request":
        """Return a request; entering it as a context sends it."""
        return Request(self, self._message(method, path, body, headers))

    async def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> EngineConnection:
        """Send a request; returns once the response headers have arrived, and `release` must follow. See `Request`."""
        return await self.send_message(self._message(method, path, body, headers))

    async def send_message(self, message: bytes) -> EngineConnection:
        """Send the bytes of a whole request on an idle or new connection, which is closed when that fails."""
        connection = await self.acquire()
        try:
            await connection.send(message)
        except BaseException:
            connection.close()
            raise
        return connection

    async def acquire(self) -> EngineConnection:
        """Return an idle connection or open one; raises `EngineUnreachableError` when that fails."""
        return self._reuse() or await self._connect()

    def release(self, connection: EngineConnection) -> None:
        """Keep a connection for the next request, or close it when it cannot be reused."""
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _reuse(self) -> EngineConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            connection.close()
        return None

    async def _connect(self) -> EngineConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: EngineConnection(self._idle_timeout_s, self._max_answer_bytes),
                    self._host,
                    self._port,
                    ssl=self._tls,
                )
        except (OSError, TimeoutError) as error:
            raise EngineUnreachableError from error
        return connection

    def _message(self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None) -> bytes:
        head = b"%s %s HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\n" % (
            method.encode(),
            (self._prefix + path).encode(),
            self._authority,
            len(body),
        )
        if body:
            head += b"content-type: application/json\r\n"
        if self.api_key is not None:
            head += b"authorization: Bearer %s\r\n" % self.api_key.encode()
        for name, value in (headers or {}).items():
            head += b"%s: %s\r\n" % (name.encode("latin-1"), value.encode("latin-1"))
        return head + b"\r\n" + body
