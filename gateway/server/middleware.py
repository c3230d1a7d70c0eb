"""Request bodies of everything but inference: unpacked, and bounded in size and in silence, so that none fills memory
or holds a connection for ever. An upload of an adapter has a bound of its own, and is packed already.

CORS: which origins' web pages may call this API; none unless the operator names them.

Doors: what the public address serves when operators have an address of their own; nothing that is not named here.

Headers that tell a browser to trust nothing: on every answer that is not inference.

What every request besides inference passes on its way in, and every answer on its way out.
"""

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin_api.error_handlers import nearest
from gateway.errors import ClientTooSlowError, RequestTooLargeError, UnknownUrlError, UnsupportedEncodingError
from gateway.server import LISTENER, Listener
from gateway.server.request_body import Decoder, decoder_for
from gateway.server.request_id import RequestIds, with_request_id
from gateway.settings import Settings

_UPLOAD = ("POST", "/admin/v1/adapters")


def with_bounded_body(app: ASGIApp, *, max_bytes: int, silence_s: float) -> ASGIApp:
    """The app, whose `receive` raises `RequestTooLargeError` past `max_bytes`, `ClientTooSlowError` after a silence,
    and other errors for a body that cannot be unpacked.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        room = None if _is_upload(scope) else max_bytes
        is_whole = False
        decoder: Decoder | None = None
        is_packed = any(name == b"content-encoding" for name, _ in scope["headers"])

        async def bounded() -> Message:
            nonlocal room, is_whole, decoder, is_packed
            if is_whole:  # what comes now is that the client leaves, whenever that is
                return await receive()
            try:
                async with asyncio.timeout(silence_s):
                    message = await receive()
            except TimeoutError as error:
                raise ClientTooSlowError(f"The body paused for {silence_s:g} s; send it faster.") from error
            is_whole = not message.get("more_body", False)
            if is_packed:
                decoder, is_packed = _decoder(scope, max_bytes), False
            if decoder is not None and message["type"] == "http.request":
                message["body"] = decoder.feed(message.get("body", b""), is_last=is_whole)
            if room is not None:
                room -= len(message.get("body", b""))
                if room < 0:
                    raise RequestTooLargeError(f"The body is larger than {max_bytes} bytes; send less.")
            return message

        await app(scope, bounded, send)

    return serve


def _decoder(scope: Scope, max_bytes: int) -> Decoder | None:
    """Only asked when somebody reads the body, so after the key was looked at."""
    decoder = decoder_for(dict(scope["headers"]), max_bytes)
    if decoder is not None and _is_upload(scope):
        raise UnsupportedEncodingError(f"{decoder.encoding} around a form", "identity")
    return decoder


def _is_upload(scope: Scope) -> bool:
    content_type = dict(scope["headers"]).get(b"content-type", b"")
    return (scope["method"], scope["path"]) == _UPLOAD and content_type.startswith(b"multipart/form-data")


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The app as web pages of these origins may call it; unchanged when there are none."""
    if not origins:
        return app
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"], max_age=600
    )


PUBLIC_PATHS = frozenset({"/health", "/ready", "/v1/models", "/v1/feedback"})
PUBLIC_FOLDERS = ("/v1/models/",)


def is_public(path: str) -> bool:
    """Whether the public address serves a path that is not inference, which it always serves."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


def with_listener_paths(app: ASGIApp) -> ASGIApp:
    """The app, of which the public door shows only what is public: the rest does not exist there."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope.get("extensions", {}).get(LISTENER) is Listener.PUBLIC
            and not is_public(scope["path"])
        ):
            path = scope["path"]
            body = UnknownUrlError(scope["method"], path, nearest(path, is_public)).body()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": UnknownUrlError.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await app(scope, receive, send)

    return serve


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_ALWAYS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_OVER_TLS = (b"strict-transport-security", b"max-age=31536000")


def with_secure_headers(app: ASGIApp) -> ASGIApp:
    """The app, whose answers may not be framed, sniffed, kept or mixed with anything; over TLS only from now on."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        added = (*_ALWAYS, _OVER_TLS) if scope.get("scheme") == "https" else _ALWAYS

        async def send_secured(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await app(scope, receive, send_secured)

    return serve


def with_middleware(app: FastAPI, ids: RequestIds, settings: Settings) -> ASGIApp:
    """The app with request ids, secure headers, bounded bodies, and behind its doors; a path has one spelling."""
    app.router.redirect_slashes = False  # a redirect would go where the host header says
    bounded = with_bounded_body(app, max_bytes=settings.max_body_bytes, silence_s=settings.body_timeout_s)
    return with_secure_headers(with_request_id(with_listener_paths(_heads_as_gets(bounded)), ids))


def _heads_as_gets(app: ASGIApp) -> ASGIApp:
    """The app, which answers HEAD as it would GET; the connection leaves out the body."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await app(scope, receive, send)

    return serve
