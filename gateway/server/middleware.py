"""ASGI middleware in one ordered list: CORS, inference dispatch, security headers, request ids, body limits."""

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
        # Outermost: answers preflight requests without a key, and adds its headers to every response.
        *([Middleware(CORSMiddleware, allow_origins=origins, **cors)] if origins else []),
        # Inference requests skip the rest: their endpoint has its own request ids, body limits and errors.
        Middleware(InferenceMiddleware, paths=paths, endpoint=inference),
        # Outside of everything that may reject a request, so that error responses have these headers as well.
        Middleware(SecureHeadersMiddleware),
        Middleware(RequestIdMiddleware, ids=ids),
        # Before routing and before the body is read: admin paths do not exist on the public listener.
        Middleware(PublicPathsMiddleware),
        Middleware(HeadMiddleware),
        # Innermost: its errors are raised by `receive` inside the app, whose error handlers make responses of them.
        Middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes, idle_timeout_s=settings.body_timeout_s),
    ]


def with_middleware(app: FastAPI, stack: list[Middleware]) -> ASGIApp:
    """Wrap the app, the first of the list outermost; a path has one spelling."""
    app.router.redirect_slashes = False  # a redirect would lead to the client-supplied host header
    wrapped: ASGIApp = app
    for cls, args, options in reversed(stack):
        wrapped = cls(wrapped, *args, **options)
    return wrapped


def is_public(path: str) -> bool:
    """Whether the public listener serves a path; it always serves the inference paths."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


class InferenceMiddleware:
    """Dispatch inference paths to their endpoint and all others to the app."""

    def __init__(self, app: ASGIApp, *, paths: Collection[str], endpoint: ASGIApp) -> None:
        self.app = app
        self._paths = frozenset(paths)
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        is_inference = scope["type"] == "http" and scope["path"] in self._paths
        await (self._endpoint if is_inference else self.app)(scope, receive, send)


class SecureHeadersMiddleware:
    """Add security headers: no framing, sniffing or caching; over TLS also HSTS."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        added = (*_SECURE_HEADERS, _OVER_TLS) if scope.get("scheme") == "https" else _SECURE_HEADERS

        async def send_secured(message: Message) -> None:
            await send(_with_headers(message, *added))

        await self.app(scope, receive, send_secured)


class RequestIdMiddleware:
    """Add `x-request-id`: the client's own if it is valid, else a new one."""

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
    """Answer 404 on the public listener for admin paths."""

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
    """Decompress request bodies and limit their size and the time without data.

    `receive` raises `RequestTooLargeError` past `max_bytes`, `ClientTooSlowError` after `idle_timeout_s` without data,
    and `InvalidRequestError` or `UnsupportedEncodingError` for a body that cannot be decompressed. An adapter upload
    has its own size limit. Starlette's RequestBodyLimitMiddleware has neither these errors nor the timeout.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, idle_timeout_s: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._idle_timeout_s = idle_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http":
            receive = _BoundedBody(scope, receive, max_bytes=self._max_bytes, idle_timeout_s=self._idle_timeout_s)
        await self.app(scope, receive, send)


class _BoundedBody:
    """The `receive` of one request, with limits."""

    def __init__(self, scope: Scope, receive: Receive, *, max_bytes: int, idle_timeout_s: float) -> None:
        self._scope = scope
        self._receive = receive
        self._max_bytes = max_bytes
        self._idle_timeout_s = idle_timeout_s
        self._remaining_bytes = None if _is_upload(scope) else max_bytes
        self._decoder: Decoder | None = None
        self._has_begun = False
        self._is_complete = False

    async def __call__(self) -> Message:
        if self._is_complete:  # the next message is the disconnect, which may come late
            return await self._receive()
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                message = await self._receive()
        except TimeoutError as error:
            raise ClientTooSlowError(f"The body stalled for {self._idle_timeout_s:g} s; send it faster.") from error
        self._is_complete = not message.get("more_body", False)
        if not self._has_begun:  # not before the first read: the key has been checked by then
            self._has_begun, self._decoder = True, self._find_decoder()
        if self._decoder is not None and message["type"] == "http.request":
            message["body"] = self._decoder.feed(message.get("body", b""), is_last=self._is_complete)
        if self._remaining_bytes is not None:
            self._remaining_bytes -= len(message.get("body", b""))
            if self._remaining_bytes < 0:
                raise RequestTooLargeError(f"The body is larger than {self._max_bytes} bytes; send less.")
        return message

    def _find_decoder(self) -> Decoder | None:
        decoder = decoder_for(dict(self._scope["headers"]), self._max_bytes)
        if decoder is not None and self._remaining_bytes is None:
            raise UnsupportedEncodingError(f"{decoder.encoding} around a form", "identity")
        return decoder


def _is_upload(scope: Scope) -> bool:
    content_type = dict(scope["headers"]).get(b"content-type", b"")
    return (scope["method"], scope["path"]) == _UPLOAD and content_type.startswith(b"multipart/form-data")


def _listener_of(scope: Scope) -> Listener | None:
    """Return the listener of a request; None on another server."""
    found: Listener | None = (scope.get("extensions") or {}).get(LISTENER)
    return found


def _with_headers(message: Message, *added: tuple[bytes, bytes]) -> Message:
    if message["type"] != "http.response.start":
        return message
    return {**message, "headers": [*message.get("headers", ()), *added]}
