"""Strict HTTP/1.1 for client connections: uvicorn's httptools protocol with limits, and errors as JSON.

llhttp already rejects every message of ambiguous length (both length headers, two lengths, bare line feeds). Rejected
or bounded here: other versions and transfer codings, a missing `host`, percent-encoded plain characters in paths,
unbounded headers and trailers, slow headers, protocol upgrades (ignored), and the number of connections. A rejection
closes the connection.
"""

import asyncio
import re
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import (
    BadFramingError,
    ClientTooSlowError,
    ExpectationError,
    GatewayError,
    HeadersTooLargeError,
    OverloadedError,
)
from gateway.server.cycle import CYCLE, Cycle, error_response
from gateway.server.listeners import LISTENER, Listener

# Percent-encoded letters, digits, `-._` and slashes: a path that encodes them could pass for another one.
_ENCODED_PLAIN = re.compile(rb"%(?:2[def]|3\d|4[1-9a-f]|5[\dacf]|6[1-9a-f]|7[\da])", re.IGNORECASE)
_FREE_NAME_PREFIXES = (b"/v1/models/", b"/admin/v1/requests/")
"""Paths below these end with names or ids chosen by clients, in which a slash is encoded."""
_FRAMING_PER_BODY_BYTE = 16
"""Framing bytes allowed per byte of a body: more than a body in one-byte chunks needs."""
_MAX_PIPELINED = 16
_MAX_PIPELINED_BYTES = 1 << 20
"""Number of pipelined requests, and body bytes of one, from which on reading pauses until a response is complete."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of each client connection, and the maximum number of connections."""

    header_timeout_s: float
    max_header_bytes: int
    max_connections: int


def strict_protocol(limits: ConnectionLimits, listener: Listener = Listener.WHOLE) -> type[asyncio.Protocol]:
    """Return the protocol class of a listener; uvicorn instantiates it for each connection, without arguments."""
    return type("StrictHttp", (StrictHttp,), {"limits": limits, "listener": listener})


class StrictHttp(HttpToolsProtocol):
    """One client connection.

    The timers for slow headers and idle connections keep running from request to request, because starting and
    cancelling them for each request costs more than an occasional check.
    """

    limits: ClassVar[ConnectionLimits]
    listener: ClassVar[Listener]
    cycle: Cycle
    _running: Cycle | None = None
    _in_headers = True
    _header_bytes = 0
    _framing_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _idle_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            limit = self.limits.max_connections
            self._reject(OverloadedError(f"The gateway has reached its limit of {limit} connections; retry later."))
        else:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._running is not None:
            self._running.leave()

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._header_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._reject(cause if isinstance(cause, GatewayError) else BadFramingError("Malformed HTTP request."))
        if self.transport.is_closing():
            return
        if (self._header_bytes if self._in_headers else self._framing_bytes) > self.limits.max_header_bytes:
            self._reject(self._too_large())
        elif self._in_headers and self._header_bytes and self._deadline is None:
            self._set_deadline()

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:  # trailers arrive after the key was checked, and are ignored
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            return
        version = self.parser.get_http_version()
        self._check_head(version)
        self._in_headers = False
        self._framing_bytes = 0
        self._clear_deadline()
        must_wait, self.cycle = self.cycle is not None and not self.cycle.response_complete, self._cycle(version)
        if must_wait:  # a pipelined request starts when the response to the previous one is complete
            self.pipeline.appendleft((self.cycle, self.app))
            if len(self.pipeline) >= _MAX_PIPELINED:
                self.flow.pause_reading()
        else:
            self._start(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = max(0, self._framing_bytes - _FRAMING_PER_BODY_BYTE * len(body))
        if self.cycle.response_complete:
            return
        self.cycle.body += body
        # While reading is paused, a disconnect goes unnoticed, so a pipelined body may grow beyond the high-water mark.
        if len(self.cycle.body) > (_MAX_PIPELINED_BYTES if self.pipeline else HIGH_WATER_LIMIT):
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_headers = True
        self._header_bytes = 0
        self._framing_bytes = 0
        self._clear_deadline()
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()
        elif not self.cycle.keep_alive:
            self.transport.close()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            assert isinstance(cycle, Cycle)
            self._start(cycle)
        else:
            if not self._in_headers:  # answered before the body arrived: bound how long the connection stays open
                self._deadline = self.loop.call_later(self.limits.header_timeout_s, self.transport.close)
            self._idle_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._check_idle_in(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if not self.cycle.response_complete or self.transport.is_closing():
            return
        if left_s > 0 or self._header_bytes:
            self._check_idle_in(max(left_s, 1.0))
        else:
            self.transport.close()

    def _feed(self, data: bytes | memoryview) -> None:
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """Ignore a protocol upgrade, as HTTP allows.

        The parser stops at an upgrade, so the same head without it is fed to a new parser, which then reads the body.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head)

    def _check_head(self, version: str) -> None:
        """Raise a `GatewayError` for a request head that is not HTTP/1.0 or 1.1, or is ambiguous."""
        names = [name for name, _ in self.headers]
        size = len(self.url) + sum(map(len, chain.from_iterable(self.headers))) + len(b": \r\n") * len(names)
        if size > self.limits.max_header_bytes:  # a single read may contain all of them
            raise self._too_large()
        if version not in ("1.1", "1.0") or self.parser.get_method() == b"CONNECT":
            raise BadFramingError("Only HTTP/1.1 and HTTP/1.0 are supported, without CONNECT.")
        if b"transfer-encoding" in names:
            codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
            if version != "1.1" or codings != [b"chunked"]:
                raise BadFramingError("The only transfer-encoding is 'chunked', in HTTP/1.1; use it or content-length.")
        if version == "1.1" and names.count(b"host") != 1:
            raise BadFramingError("A request needs exactly one host header.")
        if names.count(b"authorization") > 1:
            raise BadFramingError("A request has at most one authorization header.")
        if b"%" in self.url:
            _check_spelling(self.url)
        if b"expect" in names and version == "1.1":
            wanted = [value.strip().lower() for name, value in self.headers if name == b"expect"]
            if wanted != [b"100-continue"]:
                raise ExpectationError("The only supported 'expect' header is '100-continue'; leave it out otherwise.")
            self.expect_100_continue = True

    def _start(self, cycle: Cycle) -> None:
        self._running = cycle
        self._start_asgi_task(cycle, self.app)

    def _unset_keepalive_if_required(self) -> None:
        """Keep the timer running: its handler checks whether the connection is idle."""

    def _check_idle_in(self, wait_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(wait_s, self.timeout_keep_alive_handler)

    def _cycle(self, http_version: str) -> Cycle:
        raw_path, query = _target(self.url)
        path = raw_path.decode("ascii")
        extensions: dict[str, Any] = {LISTENER: self.listener}
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

    def _too_large(self) -> HeadersTooLargeError:
        limit = self.limits.max_header_bytes
        return HeadersTooLargeError(f"The headers, trailers or chunk framing are larger than {limit} bytes.")

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._reject(ClientTooSlowError(f"The headers did not arrive within {self.limits.header_timeout_s:g} s."))

    def _reject(self, error: GatewayError) -> None:
        """Respond with an error and close; only close where the client would take it for an earlier response."""
        self._clear_deadline()
        if self.transport.is_closing():
            return
        is_next = self.cycle is None or (self._in_headers and self.cycle.response_complete)
        if is_next or (not self._in_headers and not self.pipeline and not self.cycle.response_started):
            self.transport.write(error_response(error))
        self.transport.close()


def _check_spelling(url: bytes) -> None:
    """Raise `BadFramingError` for a NUL, and for a path that percent-encodes characters with a plain spelling."""
    if b"%00" in url:
        raise BadFramingError("A URL must not contain NUL (%00).")
    path = url.partition(b"?")[0]
    if path.startswith(_FREE_NAME_PREFIXES):
        path = path.replace(b"%2f", b"").replace(b"%2F", b"")
    if _ENCODED_PLAIN.search(path):
        raise BadFramingError("Do not percent-encode letters, digits, dots, dashes and slashes of the path.")


def _target(url: bytes) -> tuple[bytes, bytes]:
    """Split a request target into path and query."""
    if url.startswith(b"/") and b"#" not in url:
        path, _, query = url.partition(b"?")
        return path, query
    parsed = httptools.parse_url(url)
    return parsed.path or b"/", parsed.query or b""
