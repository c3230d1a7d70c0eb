"""POST /v1/chat/completions as raw ASGI: no framework between the engine's bytes and the client's socket."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from gateway.auth import Keyring
from gateway.chat import Chat, ChatRequest
from gateway.errors import GatewayError, InternalError, MethodNotAllowedError, RequestTooLargeError

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON: Headers = [(b"content-type", b"application/json")]
_EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ClientGoneError(Exception):
    """The client closed its connection; there is nobody left to answer."""


class ChatEndpoint:
    """The ASGI application for chat completions."""

    def __init__(self, chat: Chat, keyring: Keyring, *, max_body_bytes: int) -> None:
        self._chat = chat
        self._keyring = keyring
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; after the first byte, errors become SSE events."""
        reply = Reply(send)
        try:
            await self._answer(scope, receive, reply)
        except ClientGoneError:
            return
        except GatewayError as error:
            await reply.error(error)
        except Exception:
            log.exception("request %s failed", reply.request_id)
            await reply.error(InternalError())

    async def _answer(self, scope: Scope, receive: Receive, reply: "Reply") -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowedError(f"{scope['method']} is not allowed here; use POST.")
        caller = self._keyring.authenticate(scope["headers"])
        request = ChatRequest.parse(await read_body(scope, receive, self._max_body_bytes))
        async with cancel_when_client_gone(receive), self._chat.exchange(caller, request) as exchange:
            if not request.stream:
                await reply.whole(200, [*_JSON, *exchange.headers], await exchange.read())
                return
            async for events in exchange.stream():
                await reply.part([*_EVENTS, *exchange.headers], events)
            await reply.end()


class Reply:
    """Sends one response; remembers whether it has begun, which decides how an error can still be told."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False
        self.request_id = f"req_{secrets.token_hex(12)}"

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A complete response."""
        await self._start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body})

    async def part(self, headers: Headers, body: bytes) -> None:
        """A piece of a stream; the first piece sends the headers."""
        if not self._begun:
            await self._start(200, headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def error(self, error: GatewayError) -> None:
        """An error as a response, or as the last event of a stream that has begun."""
        if self._begun:
            await self._send(
                {"type": "http.response.body", "body": b"data: " + error.body() + b"\n\n", "more_body": True}
            )
            await self.end()
        else:
            await self.whole(error.status, [*_JSON, *error.headers()], error.body())

    async def _start(self, status: int, headers: Headers) -> None:
        self._begun = True
        headers = [*headers, (b"x-request-id", self.request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request body; raises `RequestTooLargeError` past `limit` bytes, without reading on."""
    too_large = RequestTooLargeError(f"The body is larger than {limit} bytes; send less, or raise max_body_bytes.")
    declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
    if int(declared) > limit:
        raise too_large
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit:
            raise too_large
        if not message.get("more_body", False):
            return b"".join(parts)


@contextlib.asynccontextmanager
async def cancel_when_client_gone(receive: Receive) -> AsyncIterator[None]:
    """Cancel what runs inside as soon as the client closes its connection, and turn that into `ClientGoneError`."""
    task = asyncio.current_task()
    assert task is not None, "requests run in tasks"
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()
