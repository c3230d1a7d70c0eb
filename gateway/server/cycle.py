"""One request and its response on a client's connection.

For FastAPI it is an ASGI cycle like uvicorn's. The inference endpoint finds it in the scope and asks it for what ASGI
has no message for: the whole body without waiting, a call when the client leaves, a stream's next piece at once.
"""

from collections.abc import Callable, Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

CYCLE = "turntable.cycle"
"""Key of `scope["extensions"]` under which a request's `Cycle` lies."""
_NO_BODY = frozenset({204, 304})


class Cycle(RequestResponseCycle):
    """Sends the head together with the first piece of the body, and looks at every header once instead of twice."""

    _head = b""
    _is_chunked = False
    _gone: Callable[[], object] | None = None

    def take_body(self) -> bytes | None:
        """The whole body, if it has arrived; None while there is more to `receive`."""
        if self.more_body or self.disconnected:
            return None
        body = bytes(self.body)
        self.body = bytearray()
        self.flow.resume_reading()  # only who reads notices that the client leaves
        return body

    async def receive(self) -> Any:
        """ASGI's `receive`."""
        message = await super().receive()
        self.flow.resume_reading()
        return message

    def when_gone(self, callback: Callable[[], object] | None) -> None:
        """What to call when the client is gone, at once if it is; None calls nothing any more."""
        self._gone = callback
        if callback is not None and self.transport.is_closing():
            callback()

    def leave(self) -> None:
        """The client is gone."""
        self.disconnected = self.disconnected or not self.response_complete
        self.message_event.set()
        if self._gone is not None:
            self._gone()

    async def send(self, message: Any) -> None:
        """ASGI's `send`."""
        await self.drained()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
        elif message.get("more_body", False):
            self.write(b"" if self.scope["method"] == "HEAD" else message.get("body", b""))
        else:
            self._end(message.get("body", b""))

    def write(self, piece: bytes) -> bool:
        """Send a piece of a response that has begun; False when the client has to read first: await `drained`."""
        if piece and not self.disconnected:
            head, self._head = self._head, b""
            if self._is_chunked:
                piece = b"%b%x\r\n%b\r\n" % (head, len(piece), piece)
            elif head:
                piece = head + piece
            self.transport.write(piece)
        return not self.flow.write_paused

    async def drained(self) -> None:
        """Return once the client has read enough to be sent more."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    def _hang_up(self) -> None:
        if not self.more_body:
            self.transport.close()
        elif self.transport.can_write_eof():  # closed while it still sends, the client would lose the answer
            self.transport.write_eof()

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        assert not self.response_started, "one response for each request"
        self.response_started = True
        self.waiting_for_100_continue = False
        lines, has_length = [STATUS_LINE[status]], False
        for name, value in headers:
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                has_length = True
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
        if not has_length and self.scope["method"] != "HEAD" and status not in _NO_BODY:
            self._is_chunked = self.scope["http_version"] == "1.1"
            lines.append(b"transfer-encoding: chunked\r\n" if self._is_chunked else b"")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        # A line feed in a value would begin a header of somebody else's making.
        if not head.count(b"\n") == head.count(b"\r") == len([line for line in lines if line]):
            raise RuntimeError("a response header holds a line break")
        self._head = head + b"\r\n"

    def _end(self, body: bytes) -> None:
        self.response_complete = True
        if self.scope["method"] == "HEAD":
            body = b""
        if self._is_chunked:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        self.transport.write(self._head + body)
        self.message_event.set()
        if not self.keep_alive:
            self._hang_up()
        self.on_response()
