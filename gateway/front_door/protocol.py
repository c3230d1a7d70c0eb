"""The protocol of a client's connection, as strict as the parser can be.

llhttp already refuses every message whose length can be read in two ways (both length headers, two lengths, odd
transfer codings, bare line feeds). What it leaves to us: HTTP/1.0 with chunks, a missing `host`, headers without end,
clients that take for ever, and more connections than this process can hold. Refusals are JSON and close the connection.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.errors import BadFramingError, ClientTooSlowError, GatewayError, HeadersTooLargeError, OverloadedError
from gateway.front_door.cycle import CYCLE, Cycle
from gateway.front_door.door import DOOR, Door


@dataclass(frozen=True)
class Limits:
    """What one client connection may take."""

    header_timeout_s: float
    max_header_bytes: int
    max_connections: int


def strict_protocol(limits: Limits, door: Door = Door.WHOLE) -> type[asyncio.Protocol]:
    """The protocol class for one door with these limits: uvicorn builds one for each connection, without arguments."""
    return type("StrictHttp", (StrictHttp,), {"limits": limits, "door": door})


class StrictHttp(HttpToolsProtocol):
    """One client connection. Timers for slow headers and idle connections run on from request to request: starting and
    cancelling them each time would cost more than what they look for.
    """

    limits: ClassVar[Limits]
    door: ClassVar[Door]
    cycle: Cycle
    _in_headers = True
    _header_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _idle_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            most = self.limits.max_connections
            self._refuse(OverloadedError(f"All {most} connections are taken; try again later."))
        else:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)
        if self.cycle is not None:
            self.cycle.leave()

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if not self._in_headers or self.transport.is_closing():
            return
        if self._header_bytes > self.limits.max_header_bytes:
            self._refuse(HeadersTooLargeError(f"The headers are larger than {self.limits.max_header_bytes} bytes."))
        elif self._header_bytes and self._deadline is None:
            self._set_deadline()

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._clear_deadline()
        version = self.parser.get_http_version()
        names = [name for name, _ in self.headers]
        if version != "1.1" and b"transfer-encoding" in names:
            raise BadFramingError("HTTP/1.0 has no transfer-encoding.")
        if version == "1.1" and names.count(b"host") != 1:
            raise BadFramingError("A request needs exactly one host header.")
        if names.count(b"authorization") > 1:
            raise BadFramingError("A request carries one key.")
        if b"%00" in self.url:
            raise BadFramingError("A target holds no NUL.")
        waits, self.cycle = self.cycle is not None and not self.cycle.response_complete, self._cycle(version)
        if waits:  # a pipelined request comes up when the one before it is answered
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start_asgi_task(self.cycle, self.app)

    def on_message_complete(self) -> None:
        self._in_headers = True
        self._header_bytes = 0
        self._clear_deadline()
        super().on_message_complete()
        if self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            if not self._in_headers:  # answered before the body came: that must not hold the connection for ever
                self._deadline = self.loop.call_later(self.limits.header_timeout_s, self.transport.close)
            self._idle_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._look_after(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if not self.cycle.response_complete or self.transport.is_closing():
            return
        if left_s > 0 or self._header_bytes:
            self._look_after(max(left_s, 1.0))
        else:
            self.transport.close()

    def _unset_keepalive_if_required(self) -> None:
        """The timer runs on, and looks at what has happened since."""

    def _look_after(self, wait_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(wait_s, self.timeout_keep_alive_handler)

    def _cycle(self, http_version: str) -> Cycle:
        raw_path, query = _target(self.url)
        path = raw_path.decode("ascii")
        extensions: dict[str, Any] = {DOOR: self.door}
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": http_version,
            "method": self.parser.get_method().decode("ascii"),
            "scheme": self.scheme or "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            "state": self.app_state.copy(),
            "extensions": extensions,
        }
        cycle = extensions[CYCLE] = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=http_version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        return cycle

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadFramingError("This is no well-formed HTTP request."))

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._refuse(ClientTooSlowError(f"The headers did not arrive within {self.limits.header_timeout_s:g} s."))

    def _refuse(self, error: GatewayError) -> None:
        self._clear_deadline()
        if not self.transport.is_closing():
            self.transport.write(_response(error))
            self.transport.close()


def _target(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request's target."""
    if url.startswith(b"/") and b"#" not in url:
        path, _, query = url.partition(b"?")
        return path, query
    parsed = httptools.parse_url(url)
    return parsed.path or b"/", parsed.query or b""


def _response(error: GatewayError) -> bytes:
    body = error.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        *error.headers(),
    ]
    return STATUS_LINE[error.status] + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + body
