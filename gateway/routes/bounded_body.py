"""Request bodies of everything but inference: unpacked, and bounded in size and in silence, so that none fills memory
or holds a connection for ever. An upload of an adapter has a bound of its own, and is packed already.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ClientTooSlowError, RequestTooLargeError, UnsupportedEncodingError
from gateway.routes.encodings import Decoder, decoder_for

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
