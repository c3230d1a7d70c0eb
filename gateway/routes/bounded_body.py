"""Request bodies of everything but inference: bounded in size and in silence, so that none fills memory or holds a
connection for ever. An upload of an adapter has a bound of its own.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ClientTooSlowError, RequestTooLargeError

_UPLOAD = ("POST", "/admin/v1/adapters")


def with_bounded_body(app: ASGIApp, *, max_bytes: int, silence_s: float) -> ASGIApp:
    """The app, whose `receive` raises `RequestTooLargeError` past `max_bytes`, `ClientTooSlowError` after a silence."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        room = None if _is_upload(scope) else max_bytes
        is_whole = False

        async def bounded() -> Message:
            nonlocal room, is_whole
            if is_whole:  # what comes now is that the client leaves, whenever that is
                return await receive()
            try:
                async with asyncio.timeout(silence_s):
                    message = await receive()
            except TimeoutError as error:
                raise ClientTooSlowError(f"The body paused for {silence_s:g} s; send it faster.") from error
            is_whole = not message.get("more_body", False)
            if room is not None:
                room -= len(message.get("body", b""))
                if room < 0:
                    raise RequestTooLargeError(f"The body is larger than {max_bytes} bytes; send less.")
            return message

        await app(scope, bounded, send)

    return serve


def _is_upload(scope: Scope) -> bool:
    content_type = dict(scope["headers"]).get(b"content-type", b"")
    return (scope["method"], scope["path"]) == _UPLOAD and content_type.startswith(b"multipart/form-data")
