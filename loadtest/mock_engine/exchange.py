"""One HTTP request to the mock engine over bare ASGI: read it, answer it, or break it off."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson

from loadtest.mock_engine.engine import MockEngine
from loadtest.mock_engine.wire import error_body

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = b"application/json"


class RejectedError(Exception):
    """A refused request, with the error it is answered with."""

    def __init__(self, status: int, type_: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, type_, message, param)


class AbortedError(Exception):
    """The connection ended before the answer did."""


class MockExchange:
    """A request to one mock engine and its answer."""

    def __init__(self, engine: MockEngine, scope: Scope, receive: Receive, send: Send) -> None:
        self.engine = engine
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.query: bytes = scope["query_string"]
        self._receive = receive
        self._send = send
        self._is_answered = False

    async def json_body(self) -> dict[str, Any]:
        """Read the body as a JSON object; raises RejectedError for anything else."""
        parts = []
        more = True
        while more:
            message = await self._receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        try:
            body = orjson.loads(b"".join(parts))
        except orjson.JSONDecodeError as error:
            raise RejectedError(400, "Bad Request", f"1 validation error:\n  {error}", "body") from None
        if not isinstance(body, dict):
            raise RejectedError(400, "Bad Request", "1 validation error:\n  not an object", "body")
        return body

    async def answer(self, status: int, body: bytes, content_type: bytes | None = JSON) -> None:
        """Send a whole answer."""
        await self.start(status, content_type, (b"content-length", str(len(body)).encode()))
        await self.write(body, more=False)

    async def start(self, status: int, content_type: bytes | None, *extra: tuple[bytes, bytes]) -> None:
        """Send the status line and headers."""
        headers = [*extra, *([(b"content-type", content_type)] if content_type else [])]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes, *, more: bool = True) -> None:
        """Send a piece of the answer; the last one says that there is no more."""
        self._is_answered = not more
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def hang(self) -> None:
        """Send nothing more until the client has closed its connection."""
        await self._disconnected()
        raise AbortedError

    async def drop(self) -> None:
        """Close the connection without finishing the answer."""
        # ASGI has no way to hang up; uvicorn's `send` is a method of the object that holds the connection.
        self._send.__self__.transport.close()  # type: ignore[attr-defined]
        await self.hang()

    async def unless_gone(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`; when the client goes away before it ends, stop it and raise AbortedError."""
        answering = asyncio.create_task(work)
        watching = asyncio.create_task(self._disconnected())
        try:
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and not self._is_answered:
                raise AbortedError
            await answering  # once all is sent the server says "disconnect" too, sometimes before we are through
        finally:
            answering.cancel()
            watching.cancel()
            await asyncio.gather(answering, watching, return_exceptions=True)

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
