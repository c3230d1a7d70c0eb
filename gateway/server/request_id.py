"""Request ids: the client's own when it sends a usable one, else ours; in every response as `x-request-id`."""

import itertools
import re
import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

_USABLE = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestIds:
    """Generate request ids, unique over processes, without a system call for each."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count()

    def new(self) -> str:
        """Return the next id."""
        return f"req_{self._process}{next(self._numbers):08x}"


def client_request_id(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the client's `x-request-id` if it can be sent back as a header."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _USABLE.fullmatch(given) else None


def with_request_id(app: ASGIApp, ids: RequestIds) -> ASGIApp:
    """The app with `x-request-id` in every answer."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        request_id = client_request_id(dict(scope["headers"])) or ids.new()

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, send_with_id)

    return serve
