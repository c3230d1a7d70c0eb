"""Headers that tell a browser to trust nothing: on every answer that is not inference."""

from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

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
