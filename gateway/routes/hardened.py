"""What every request besides inference passes on its way in, and every answer on its way out."""

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.routes.bounded_body import with_bounded_body
from gateway.routes.doors import behind_doors
from gateway.routes.request_id import RequestIds, identified
from gateway.routes.secure_headers import with_secure_headers
from gateway.settings import Settings


def hardened(app: FastAPI, ids: RequestIds, settings: Settings) -> ASGIApp:
    """The app with request ids, secure headers, bounded bodies, and behind its doors; a path has one spelling."""
    app.router.redirect_slashes = False  # a redirect would go where the host header says
    bounded = with_bounded_body(app, max_bytes=settings.max_body_bytes, silence_s=settings.body_timeout_s)
    return with_secure_headers(identified(behind_doors(_heads_as_gets(bounded)), ids))


def _heads_as_gets(app: ASGIApp) -> ASGIApp:
    """The app, which answers HEAD as it would GET; the connection leaves out the body."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await app(scope, receive, send)

    return serve
