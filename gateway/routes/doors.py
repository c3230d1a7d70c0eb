"""Doors: what the public address serves when operators have an address of their own; nothing that is not named here."""

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import UnknownUrlError
from gateway.front_door import DOOR, Door
from gateway.routes.nearest import nearest

PUBLIC_PATHS = frozenset({"/health", "/ready", "/v1/models", "/v1/feedback"})
PUBLIC_FOLDERS = ("/v1/models/",)


def is_public(path: str) -> bool:
    """Whether the public address serves a path that is not inference, which it always serves."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


def behind_doors(app: ASGIApp) -> ASGIApp:
    """The app, of which the public door shows only what is public: the rest does not exist there."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["extensions"].get(DOOR) is Door.PUBLIC and not is_public(scope["path"]):
            path = scope["path"]
            body = UnknownUrlError(scope["method"], path, nearest(path, is_public)).body()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": UnknownUrlError.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await app(scope, receive, send)

    return serve
