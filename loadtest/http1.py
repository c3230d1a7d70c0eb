"""HTTP/1.1 client connection for load: one request at a time, parsed by httptools, handed over read by read.

A general HTTP client costs more per request than the rest of the load tester together. Here the bytes of a response go
from the socket through the parser to a reader, without streams, tasks or queues in between.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, cast

import httptools

MOST_HEAD_BYTES = 1 << 16


class FailureError(Exception):
    """A request that failed, with the kind its record gets."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ResponseReader(Protocol):
    """Receives one response; a method may raise FailureError, which ends the response and closes the connection."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take status and headers, whose names are spelled as the server sent them."""

    def on_data(self, data: bytes) -> None:
        """Take the part of the body that one read from the socket brought."""


class Connection(asyncio.Protocol):
    """A kept-alive connection; `on_lost` is called once when it ends."""

    __slots__ = (
        *("open", "idle_since_s", "on_header", "on_body", "_on_lost", "_transport", "_loop", "_reader", "_answered"),
        *("_status", "_headers", "_head_bytes", "_is_head_given", "_is_complete", "_keep_alive"),
        *("_pieces", "_most_pieces", "_parser"),
    )

    def __init__(self, on_lost: Callable[["Connection"], None] | None = None) -> None:
        self.open = False
        self.idle_since_s = 0.0
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._reader: ResponseReader | None = None
        self._answered: asyncio.Future[float] | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._is_head_given = False
        self._is_complete = False
        self._keep_alive = True
        self._pieces: list[bytes] = []
        self._most_pieces: int | None = None
        # The parser's callbacks; it looks them up when it is made.
        self.on_header = self._headers.__setitem__
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes, reader: ResponseReader) -> "asyncio.Future[float]":
        """Send a request; the future gives the time.perf_counter() at which its response was complete.

        It raises FailureError for a response that is no good, and ConnectionError when the connection ends too early.
        """
        self._answered = self._loop.create_future()
        if self._transport is None or not self.open:
            self._answered.set_exception(ConnectionResetError("the connection is closed"))
            return self._answered
        self._reader = reader
        self._status = self._head_bytes = 0
        self._is_head_given = self._is_complete = False
        self._headers.clear()
        self._transport.write(request)
        return self._answered

    def close(self) -> None:
        """Close at once, also in the middle of a response."""
        self.open = False
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._answered:
            if exc is None and self._is_head_given and self._ends_with_connection():
                self._finish()
            else:
                reason = str(exc) if exc else "the server closed the connection"
                self._finish(ConnectionResetError(f"{reason} before the answer was complete"))
        if self._on_lost:
            self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():
            # No request is out, or its sender has given up.
            self.close()
            return
        fault: FailureError | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep_alive = False
            if not self._is_complete:
                fault = FailureError("malformed", f"the answer is not HTTP: {error}")
        try:
            if self._status:
                self._hand_over()
            elif not fault:
                self._limit_head(len(data))
        except FailureError as failure:
            fault = failure
        if fault or self._is_complete:
            self._finish(fault)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._is_complete:
            # A second response to one request: its body is dropped, and the connection closed.
            self._keep_alive = False
            self._most_pieces = len(self._pieces)
        elif status >= 200:
            self._status = status
            self._keep_alive = self._parser.should_keep_alive()
        else:
            self._headers.clear()

    def on_message_complete(self) -> None:
        if self._status:
            self._is_complete = True

    def _limit_head(self, arrived_bytes: int) -> None:
        self._head_bytes += arrived_bytes
        if self._head_bytes > MOST_HEAD_BYTES:
            raise FailureError("malformed", "the answer is not HTTP: its head does not end")

    def _hand_over(self) -> None:
        reader = self._reader
        assert reader is not None
        if not self._is_head_given:
            self._is_head_given = True
            reader.on_head(self._status, self._headers)
        pieces = self._pieces
        if pieces:
            if self._most_pieces is not None:
                del pieces[self._most_pieces :]
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            reader.on_data(data)

    def _ends_with_connection(self) -> bool:
        return not {name.lower() for name in self._headers} & {b"content-length", b"transfer-encoding"}

    def _finish(self, error: Exception | None = None) -> None:
        answered, self._answered = self._answered, None
        if error or not self._keep_alive or not self._is_complete:
            self.close()
        if answered and not answered.done():
            if error:
                answered.set_exception(error)
            else:
                answered.set_result(time.perf_counter())
