"""The front door: HTTP/1.1 as strictly as the parser can, for clients that are slow, greedy or up to something.

llhttp already refuses every message whose length can be read in two ways (both length headers, two lengths, odd
transfer codings, bare line feeds). What it leaves to us: HTTP/1.0 with chunks, a missing `host`, headers without end,
clients that take for ever, and more connections than this process can hold. Refusals are JSON and close the connection.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.errors import BadFramingError, ClientTooSlowError, GatewayError, HeadersTooLargeError, OverloadedError

WHEN_GONE = "turntable.when_gone"
"""Key of `scope["extensions"]`: a function that takes what to call when the client is gone, or None to forget it."""


@dataclass(frozen=True)
class Limits:
    """What one client connection may take."""

    header_timeout_s: float
    max_header_bytes: int
    max_connections: int


def strict_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol class for a server with these limits: uvicorn builds one for each connection, without arguments."""
    return type("StrictHttp", (StrictHttp,), {"limits": limits})


class StrictHttp(HttpToolsProtocol):
    """One client connection. A timer runs only while headers are incomplete."""

    limits: ClassVar[Limits]
    _in_headers = True
    _header_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _gone: Callable[[], object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            most = self.limits.max_connections
            self._refuse(OverloadedError(f"All {most} connections are taken; try again later."))
        else:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)
        if self._gone is not None:
            self._gone()

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

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._clear_deadline()
        names = [name for name, _ in self.headers]
        version = self.parser.get_http_version()
        if version != "1.1" and b"transfer-encoding" in names:
            raise BadFramingError("HTTP/1.0 has no transfer-encoding.")
        if version == "1.1" and names.count(b"host") != 1:
            raise BadFramingError("A request needs exactly one host header.")
        self.scope["extensions"] = {WHEN_GONE: self._when_gone}  # type: ignore[dict-item]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_headers = True
        self._header_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadFramingError("This is no well-formed HTTP request."))

    def _when_gone(self, callback: Callable[[], object] | None) -> None:
        self._gone = callback
        if callback is not None and self.transport.is_closing():
            callback()

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


def _response(error: GatewayError) -> bytes:
    body = error.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        *error.headers(),
    ]
    return STATUS_LINE[error.status] + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + body
