"""One request-response cycle on a client connection, with more than ASGI's messages offer.

It gives the whole body without waiting, a callback when the client disconnects, and writes to a stream without waking a
task. `StrictHttp` puts a `Cycle` into the scope. On any other server (plain uvicorn, `httpx.ASGITransport`) `cycle_of`
returns an `AsgiCycle`, which does the same over `receive` and `send` at the cost of one task per request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from gateway.errors import GatewayError, GatewayStoppedError

CYCLE = "turntable.cycle"
"""Key of `scope["extensions"]` that holds a request's `Cycle`."""
_NO_BODY = frozenset({204, 304})

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientCycle(Protocol):
    """Interface of a server for the inference endpoint, beyond ASGI's `receive` and `send`."""

    disconnected: bool
    """The client is known to have disconnected."""

    def take_body(self) -> bytes | None:
        """Return the whole body if it has arrived; None while there is more to `receive`."""
        ...

    def when_gone(self, callback: Callable[[], object] | None) -> None:
        """Call back when the client disconnects, at once if it has; None cancels. Call it once the body is read."""
        ...

    def write(self, piece: bytes) -> bool:
        """Write part of a response body; False when `drained` has to be awaited before the next part."""
        ...

    async def drained(self) -> None:
        """Wait until more may be written."""
        ...

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        ...


def cycle_of(scope: Mapping[str, Any], receive: Receive, send: Send) -> tuple[ClientCycle, Send]:
    """Return the cycle of a request and its `send`, on any ASGI server."""
    cycle: Cycle | None = scope.get("extensions", {}).get(CYCLE)
    if cycle is not None:
        return cycle, send
    plain = AsgiCycle(receive, send)
    return plain, plain.send


class AsgiCycle:
    """A cycle over ASGI's messages: written data is sent when `drained` is awaited, which applies back-pressure."""

    __slots__ = ("_pending", "_receive", "_send", "_watcher", "disconnected")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._pending: list[bytes] = []
        self._watcher: asyncio.Task[None] | None = None
        self.disconnected = False

    def take_body(self) -> bytes | None:
        """Return None: the body comes by `receive`."""
        return None

    async def receive(self) -> Message:
        """Receive the next message."""
        return await self._receive()

    def when_gone(self, callback: Callable[[], object] | None) -> None:
        """Wait for the disconnect in a task of its own, because only `receive` reports it."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if callback is not None:
            self._watcher = asyncio.create_task(self._watch(callback))

    def write(self, piece: bytes) -> bool:
        """Buffer data until `drained` is awaited."""
        if piece:
            self._pending.append(piece)
        return not self._pending

    async def drained(self) -> None:
        """Send the buffered data; the server's `send` returns once the client has read enough."""
        if self._pending:
            body = b"".join(self._pending)
            self._pending.clear()
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def send(self, message: Message) -> None:
        """Send a message after the buffered data."""
        await self.drained()
        await self._send(message)

    async def _watch(self, callback: Callable[[], object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnected = True
        callback()


class Cycle(RequestResponseCycle):
    """The cycle of `StrictHttp`: sends the head together with the first body data, and checks each header once."""

    _head = b""
    _is_chunked = False
    _gone: Callable[[], object] | None = None
    _app: Any = None

    async def run_asgi(self, app: Any) -> None:
        """Run the app; a request that the server cancels at shutdown is answered, and leaves no traceback."""
        self._app = app
        await super().run_asgi(self._until_stopped)

    def take_body(self) -> bytes | None:
        """Return the whole body if it has arrived; None while there is more to `receive`."""
        if self.more_body or self.disconnected:
            return None
        body = bytes(self.body)
        self.body = bytearray()
        self.flow.resume_reading()  # a disconnect is noticed only while reading
        return body

    async def receive(self) -> Any:
        """ASGI's `receive`."""
        message = await super().receive()
        self.flow.resume_reading()
        return message

    def when_gone(self, callback: Callable[[], object] | None) -> None:
        """Call back when the client disconnects, at once if it has; None cancels that."""
        self._gone = callback
        if callback is not None and self.transport.is_closing():
            callback()

    def leave(self) -> None:
        """Note that the client has disconnected."""
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
        """Write part of a response body; False when `drained` has to be awaited before the next part."""
        if piece and not self.disconnected:
            head, self._head = self._head, b""
            if self._is_chunked:
                piece = b"%b%x\r\n%b\r\n" % (head, len(piece), piece)
            elif head:
                piece = head + piece
            self.transport.write(piece)
        return not self.flow.write_paused

    async def drained(self) -> None:
        """Wait until the client has read enough."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    async def _until_stopped(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.response_started and not self.disconnected:
                self.transport.write(error_response(GatewayStoppedError()))
            if not self.response_complete:
                self.response_started = self.response_complete = True
                self.transport.close()

    def _close(self) -> None:
        if not self.more_body:
            self.transport.close()
        elif self.transport.can_write_eof():  # a full close while the client still sends would lose the response
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
        # A line feed in a value would inject a header.
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
            self._close()
        self.on_response()


def error_response(error: GatewayError) -> bytes:
    """Return an error as the bytes of a whole HTTP/1.1 response that closes the connection."""
    body = error.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        *error.headers(),
    ]
    return STATUS_LINE[error.status] + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + body
