"""Middleware: what every request passes on its way in and every response on its way out, as one ordered list."""

import asyncio
from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin_api.error_handlers import nearest_path
from gateway.errors import ClientTooSlowError, RequestTooLargeError, UnknownUrlError, UnsupportedEncodingError
from gateway.server import LISTENER, Listener
from gateway.server.request_body import Decoder, decoder_for
from gateway.server.request_id import RequestIds, client_request_id
from gateway.settings import Settings

PUBLIC_PATHS = frozenset({"/health", "/ready", "/v1/models", "/v1/feedback"})
PUBLIC_FOLDERS = ("/v1/models/",)
_UPLOAD = ("POST", "/admin/v1/adapters")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_SECURE_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_OVER_TLS = (b"strict-transport-security", b"max-age=31536000")


def middleware(*, settings: Settings, ids: RequestIds, paths: Collection[str], inference: ASGIApp) -> list[Middleware]:
    """List all middleware, outermost first; `inference` is the endpoint that serves `paths`."""
    origins = settings.cors_origins
    cors: dict[str, Any] = {"allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": ["*"], "max_age": 600}
    return [
        # Answers the browser's question before any key is asked for, and puts its headers on every response.
        *([Middleware(CORSMiddleware, allow_origins=origins, **cors)] if origins else []),
        # The hot path leaves here: the endpoint has its own request ids, body limits and errors.
        Middleware(InferenceMiddleware, paths=paths, endpoint=inference),
        # Outside of all that may refuse a request: refusals carry these headers, too, and so does a 500.
        Middleware(SecureHeadersMiddleware),
        Middleware(RequestIdMiddleware, ids=ids),
        # Before a body is read or a route is looked up: operators' paths do not exist at the public listener.
        Middleware(PublicPathsMiddleware),
        Middleware(HeadMiddleware),
        # Innermost: its errors come out of `receive`, inside the app, whose error handlers turn them into responses.
        Middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes, silence_s=settings.body_timeout_s),
    ]


def with_middleware(app: FastAPI, stack: list[Middleware]) -> ASGIApp:
    """Wrap the app, the first of the list outermost; a path has one spelling."""
    app.router.redirect_slashes = False  # a redirect would go where the host header says
    wrapped: ASGIApp = app
    for cls, args, options in reversed(stack):
        wrapped = cls(wrapped, *args, **options)
    return wrapped


def is_public(path: str) -> bool:
    """Whether the public listener serves a path besides those of inference, which it always serves."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


class InferenceMiddleware:
    """Hand requests for inference paths to their endpoint, everything else to the app."""

    def __init__(self, app: ASGIApp, *, paths: Collection[str], endpoint: ASGIApp) -> None:
        self.app = app
        self._paths = frozenset(paths)
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        is_inference = scope["type"] == "http" and scope["path"] in self._paths
        await (self._endpoint if is_inference else self.app)(scope, receive, send)


class SecureHeadersMiddleware:
    """Add headers that forbid browsers to frame, sniff or cache a response; over TLS, also to come back without it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        added = (*_SECURE_HEADERS, _OVER_TLS) if scope.get("scheme") == "https" else _SECURE_HEADERS

        async def send_secured(message: Message) -> None:
            await send(_with_headers(message, *added))

        await self.app(scope, receive, send_secured)


class RequestIdMiddleware:
    """Add `x-request-id`: the client's own if it can be sent back, else a new one."""

    def __init__(self, app: ASGIApp, *, ids: RequestIds) -> None:
        self.app = app
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = client_request_id(dict(scope["headers"])) or self._ids.new()

        async def send_with_id(message: Message) -> None:
            await send(_with_headers(message, (b"x-request-id", request_id.encode())))

        await self.app(scope, receive, send_with_id)


class PublicPathsMiddleware:
    """Answer 404 at the public listener to every path that only operators may use."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        is_http = scope["type"] == "http"
        if is_http and _listener_of(scope) is Listener.PUBLIC and not is_public(path := scope["path"]):
            error = UnknownUrlError(scope["method"], path, nearest_path(path, is_public))
            body = error.body()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, send)


class HeadMiddleware:
    """Serve HEAD as GET; the HTTP connection leaves out the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


class BodyLimitMiddleware:
    """Decompress request bodies and bound their size and their silences.

    `receive` raises `RequestTooLargeError` past `max_bytes`, `ClientTooSlowError` after `silence_s` without a byte, and
    `InvalidRequestError` or `UnsupportedEncodingError` for a body that cannot be decompressed. An uploaded adapter has
    a size limit of its own. Starlette's RequestBodyLimitMiddleware has neither the errors nor the silence.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, silence_s: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._silence_s = silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http":
            receive = _BoundedBody(scope, receive, max_bytes=self._max_bytes, silence_s=self._silence_s)
        await self.app(scope, receive, send)


class _BoundedBody:
    """The `receive` of one request, bounded."""

    def __init__(self, scope: Scope, receive: Receive, *, max_bytes: int, silence_s: float) -> None:
        self._scope = scope
        self._receive = receive
        self._max_bytes = max_bytes
        self._silence_s = silence_s
        self._left_bytes = None if _is_upload(scope) else max_bytes
        self._decoder: Decoder | None = None
        self._has_begun = False
        self._is_complete = False

    async def __call__(self) -> Message:
        if self._is_complete:  # the next message says that the client leaves, whenever that is
            return await self._receive()
        try:
            async with asyncio.timeout(self._silence_s):
                message = await self._receive()
        except TimeoutError as error:
            raise ClientTooSlowError(f"The body paused for {self._silence_s:g} s; send it faster.") from error
        self._is_complete = not message.get("more_body", False)
        if not self._has_begun:  # only now, because whoever reads the body has checked the key
            self._has_begun, self._decoder = True, self._find_decoder()
        if self._decoder is not None and message["type"] == "http.request":
            message["body"] = self._decoder.feed(message.get("body", b""), is_last=self._is_complete)
        if self._left_bytes is not None:
            self._left_bytes -= len(message.get("body", b""))
            if self._left_bytes < 0:
                raise RequestTooLargeError(f"The body is larger than {self._max_bytes} bytes; send less.")
        return message

    def _find_decoder(self) -> Decoder | None:
        decoder = decoder_for(dict(self._scope["headers"]), self._max_bytes)
        if decoder is not None and self._left_bytes is None:
            raise UnsupportedEncodingError(f"{decoder.encoding} around a form", "identity")
        return decoder


def _is_upload(scope: Scope) -> bool:
    content_type = dict(scope["headers"]).get(b"content-type", b"")
    return (scope["method"], scope["path"]) == _UPLOAD and content_type.startswith(b"multipart/form-data")


def _listener_of(scope: Scope) -> Listener | None:
    """Through which of our listeners a request came; None on another server."""
    found: Listener | None = (scope.get("extensions") or {}).get(LISTENER)
    return found


def _with_headers(message: Message, *added: tuple[bytes, bytes]) -> Message:
    if message["type"] != "http.response.start":
        return message
    return {**message, "headers": [*message.get("headers", ()), *added]}
