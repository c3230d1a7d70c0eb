"""One HTTP/1.1 connection that carries one request at a time, and no more of HTTP than an answer needs.

A general HTTP client costs more per request than the whole of the rest of the load tester; the bytes of the answer go
from the socket to the reader of events without being copied into streams and tasks.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from loadtest.sse import FailureError

MOST_HEAD_BYTES = 1 << 16


class Reader(Protocol):
    """What an answer is handed to; each call may raise FailureError, which ends the answer."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status and headers, whose names are in lower case."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body."""


class Connection(asyncio.Protocol):
    """A connection; `lost` is called once when it ends."""

    def __init__(self, lost: Callable[["Connection"], None]) -> None:
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._answered: asyncio.Future[None] | None = None
        self._buffer = b""
        self._body: Body | None = None
        self._keep_alive = True
        self.open = False
        self.idle_since_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is up."""
        # uvloop's transports are none by class.
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone; an answer under way ends here, well only if its body ends with the connection."""
        self.open = False
        if self._answered:
            if self._body and self._body.left is None and not self._body.chunked and not error:
                self._finish()
            else:
                reason = str(error) if error else "the server closed the connection"
                self._finish(ConnectionResetError(f"{reason} before the answer was complete"))
        self._lost(self)

    def send(self, request: bytes, reader: Reader) -> "asyncio.Future[None]":
        """Send a request; the future is done when its answer is, with FailureError or OSError when it is no good."""
        assert self._transport is not None
        self._reader, self._body, self._buffer = reader, None, b""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def close(self) -> None:
        """Hang up, also in the middle of an answer."""
        if self._transport:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes from the server."""
        if self._answered is None or self._answered.done():
            # Nobody asked, or nobody listens any more.
            self.close()
            return
        try:
            self._take(data)
        except FailureError as failure:
            self._finish(failure)
        except ValueError as error:
            self._finish(FailureError("malformed", f"the answer is not HTTP: {error}"))

    def _take(self, data: bytes) -> None:
        assert self._reader is not None
        if self._body is None:
            self._buffer += data
            head, separator, data = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                if len(self._buffer) > MOST_HEAD_BYTES:
                    raise ValueError("its head does not end")
                return
            self._buffer = b""
            status, headers = _parsed_head(head)
            if status == 100:
                self._take(data)
                return
            self._keep_alive = headers.get(b"connection", b"").lower() != b"close"
            self._body = Body(status, headers)
            self._reader.on_head(status, headers)
        piece = self._body.feed(data)
        if piece:
            self._reader.on_data(piece)
        if self._body.complete:
            self._finish()

    def _finish(self, error: Exception | None = None) -> None:
        answered, self._answered = self._answered, None
        if error or not self._keep_alive or (self._body and not self._body.complete):
            self.close()
        if answered and not answered.done():
            if error:
                answered.set_exception(error)
            else:
                answered.set_result(None)


class Body:
    """Finds the body's bytes and its end, for a body with a length, in chunks, or up to the connection's end."""

    def __init__(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.chunked = headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        length = headers.get(b"content-length")
        self.left: int | None = 0 if self.chunked or status in (204, 304) else int(length) if length else None
        self.complete = self.left == 0 and not self.chunked
        self._rest = b""
        self._in_trailer = False

    def feed(self, data: bytes) -> bytes:
        """The part of `data` that belongs to the body; ValueError when it is not as HTTP says."""
        if self.chunked:
            return self._unchunked(data)
        if self.left is not None:
            data = data[: self.left]
            self.left -= len(data)
            self.complete = self.left == 0
        return data

    def _unchunked(self, data: bytes) -> bytes:
        data = self._rest + data if self._rest else data
        pieces = []
        at = 0
        while not self.complete:
            if self.left:
                piece = data[at : at + self.left]
                pieces.append(piece)
                at += len(piece)
                self.left -= len(piece)
                if self.left:
                    break
                self.left = None
            start = at
            if self.left is None:
                # The line end behind a chunk's data.
                start += 2
            line_end = data.find(b"\r\n", start)
            if line_end < 0:
                break
            at = line_end + 2
            if self._in_trailer:
                self.complete = line_end == start
                continue
            self.left = int(data[start:line_end].partition(b";")[0], 16)
            if self.left < 0:
                raise ValueError("a chunk has no size")
            self._in_trailer = self.left == 0
        self._rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _parsed_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError(f"it begins with {first[:40]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    return int(rest[:3]), headers
