"""One kept connection to an engine, and the answer that is arriving on it.

HTTP/1.1 towards one engine: kept connections, one request at a time on each, and nothing that a proxy does not need.

A general client spends most of its time on what cannot occur here: redirects, cookies, compression, proxies, encodings.
docs/decisions/0007 has the measurements.
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

_KEEP_IDLE_S = 3.0  # less than the five seconds after which vLLM closes an idle connection
_BUFFERED_BYTES = 256 << 10
MOST_ANSWER_BYTES = 64 << 20


class EngineConnection(asyncio.Protocol):
    """One connection and the answer that is arriving on it; `read` takes answers of `most_bytes` at the most."""

    def __init__(self, idle_timeout_s: float, most_bytes: int = MOST_ANSWER_BYTES) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: GatewayError | None = None
        self._parts: list[bytes] = []
        self._buffered = 0
        self._heard_s = 0.0
        self._has_headers = False
        self._is_paused = False
        self._first_piece: Callable[[], None] | None = None
        self.is_complete = True
        self.has_spoken = False
        """Something of the answer's body has arrived."""
        self.status = 0
        self.idle_since_s = 0.0

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent on this connection. Not after an answer that nobody has read to its end
        (its client left in the very moment in which it was complete): the next one would begin with what is left.
        """
        fresh = time.monotonic() - self.idle_since_s < _KEEP_IDLE_S
        is_over = self.is_complete and not self._parts
        return is_over and self._error is None and fresh and not self._transport.is_closing()

    async def send(self, request: bytes) -> int:
        """Send a whole request; returns the answer's status once its headers are here.

        Raises `EngineBrokeOffError` and `EngineTimeoutError`, as do `read` and `next_chunk`.
        """
        self._parser = httptools.HttpResponseParser(self)
        self._has_headers = self.is_complete = self.has_spoken = False
        self._first_piece = None
        self._heard_s = self._loop.time()
        if self._timer is None:
            self._watch(self._idle_timeout_s)
        self._transport.write(request)
        while not self._has_headers:
            await self._more()
        return self.status

    async def read(self) -> bytes:
        """The whole body; raises `EngineAnswerTooLargeError` beyond `most_bytes`."""
        pieces, size = [], 0
        while piece := await self.next_chunk():  # taken as they come: what stays here keeps the rest from coming
            size += len(piece)
            if size > self._most_bytes:
                raise EngineAnswerTooLargeError(self._most_bytes)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def peek(self) -> bytes:
        """The whole of a short body, or the beginning of a long one; it stays to be read."""
        while not self.is_complete and not self._is_paused:
            await self._more()
        return b"".join(self._parts)

    async def next_chunk(self) -> bytes:
        """What has arrived of the body since the last look, as soon as there is something; empty at its end."""
        while not self._parts and not self.is_complete:
            await self._more()
        return self._take()

    async def pump(self, sink: Callable[[bytes], bool]) -> None:
        """Hand everything that arrives of the body to `sink` in the moment it arrives, without waking this task for it;
        returns at the end of the body, or once `sink` has returned False because it can take no more for now.

        Raises what `sink` raises.
        """
        if self._parts and not sink(self._take()):
            return
        if self.is_complete:
            return
        self._sink = sink
        try:
            await self._more()
        finally:
            self._sink = None

    def on_first_piece(self, call: Callable[[], None]) -> None:
        """Call once something of the body is here, at once if it is."""
        if self.has_spoken:
            call()
        else:
            self._first_piece = call

    def close(self) -> None:
        """Close at once; the engine notices and stops working on the request."""
        self._stop_watching()
        self._transport.abort()

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _hand_over(self, sink: Callable[[bytes], bool]) -> None:
        try:
            if self._parts and not sink(self._take()):
                self._sink = None
                self._wake()
        except Exception as error:
            self._sink = None
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)

    def _take(self) -> bytes:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        if self._is_paused:
            self._is_paused = False
            self._heard_s = self._loop.time()  # it could not be heard while nobody read
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
        self._stop_watching()
        self._wake()

    def _watch(self, wait_s: float) -> None:
        self._timer = self._loop.call_later(wait_s, self._check_silence)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_silence(self) -> None:
        if self.is_complete:  # the next request starts a new watch; stopping this one each time would cost more
            self._timer = None
            return
        left_s = self._heard_s + self._idle_timeout_s - self._loop.time()
        if left_s > 0 or self._is_paused:
            self._watch(max(left_s, 0.05))
        else:
            self._fail(
                EngineTimeoutError(
                    f"The engine fell silent for {self._idle_timeout_s:g} s; try again, or with fewer tokens.",
                    code="engine_idle_timeout",
                )
            )

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        try:
            if self.is_complete:
                raise httptools.HttpParserError("nothing was asked")
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(EngineBrokeOffError())
            self._transport.abort()
        else:
            if self._sink is not None:
                self._hand_over(self._sink)
                if not self.is_complete:
                    return
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(EngineBrokeOffError())

    # httptools.HttpResponseParser
    def on_message_begin(self) -> None:
        """The parser has met the first byte of an answer; a second answer is one that nobody asked for."""
        if self.is_complete:
            raise EngineBrokeOffError

    def on_headers_complete(self) -> None:
        """The parser has read all headers."""
        status = self._parser.get_status_code()
        if status >= 200:  # an interim answer is followed by the real one
            self.status = status
            self._has_headers = True

    def on_body(self, body: bytes) -> None:
        """The parser has read a piece of the body."""
        if not self.has_spoken:
            self.has_spoken = True
            if self._first_piece is not None:
                self._first_piece()
        self._parts.append(body)
        self._buffered += len(body)
        if self._buffered > _BUFFERED_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The parser has read the whole answer."""
        if not self._has_headers:
            return
        self.is_complete = True
        self.idle_since_s = time.monotonic() if self._parser.should_keep_alive() else float("-inf")


class Request:
    """One request on a connection of its own; the context yields it once the answer's headers are here.

    Left before the answer is complete, the connection is closed. Entering raises `EngineUnreachableError` when the
    engine saw nothing of the request, `EngineBrokeOffError`, `EngineTimeoutError`.
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
        self._pool.give_back(self._connection)


class ConnectionPool:
    """Connections to the engine at `url`, made when needed and kept for a while."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float,
        idle_timeout_s: float,
        most_answer_bytes: int = MOST_ANSWER_BYTES,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2].encode()
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._most_answer_bytes = most_answer_bytes
        self._idle: list[EngineConnection] = []
        self.api_key: str | None = None
        """What the engine demands of whoever asks it."""

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> "Request":
        """A request to send by entering it as a context."""
        return Request(self, self._message(method, path, body, headers))

    async def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> EngineConnection:
        """Send a request; returns once the response headers are here, and `give_back` must follow. See `Request`."""
        return await self.send_message(self._message(method, path, body, headers))

    async def send_message(self, message: bytes) -> EngineConnection:
        """Send the bytes of a whole request on a connection of its own; closes it again when that fails."""
        connection = await self.take()
        try:
            await connection.send(message)
        except BaseException:
            connection.close()
            raise
        return connection

    async def take(self) -> EngineConnection:
        """A connection that nobody uses; raises `EngineUnreachableError` when none can be made."""
        return self._reuse() or await self._connect()

    def give_back(self, connection: EngineConnection) -> None:
        """Keep a connection for the next request, or close it when it can take none."""
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close what is idle."""
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
                    lambda: EngineConnection(self._idle_timeout_s, self._most_answer_bytes),
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
