"""The inference endpoints as raw ASGI: no framework between the engine's bytes and the client's socket."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from gateway.apis import APIS, Api
from gateway.auth import Keyring
from gateway.errors import (
    ClientTooSlowError,
    GatewayError,
    InternalError,
    MethodNotAllowedError,
    RequestTooLargeError,
)
from gateway.front_door import WHEN_GONE
from gateway.inference import Call, Inference
from gateway.resolve import Resolver
from gateway.routes.keep_alive import KeepAlive
from gateway.routes.request_id import RequestIds, client_request_id

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
_TRACE_HEADERS = (b"traceparent", b"tracestate")


class ClientGoneError(Exception):
    """The client closed its connection; there is nobody left to answer."""


class InferenceEndpoint:
    """The ASGI application for every path in `APIS`."""

    def __init__(
        self,
        inference: Inference,
        keyring: Keyring,
        resolver: Resolver,
        ids: RequestIds,
        *,
        base: str,
        max_body_bytes: int,
        body_timeout_s: float,
        keep_alive_s: float,
    ) -> None:
        self._inference = inference
        self._keyring = keyring
        self._resolver = resolver
        self._base = base
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._keep_alive_s = keep_alive_s
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; after the first byte, errors become events."""
        api = APIS[scope["path"]]
        headers = dict(scope["headers"])
        reply = Reply(send, api, self._ids.new(), client_id=client_request_id(headers))
        try:
            await self._answer(scope, headers, receive, reply)
        except ClientGoneError:
            return
        except GatewayError as error:
            await reply.error(error)
        except Exception:
            log.exception("request %s failed", reply.own_id)
            await reply.error(InternalError())

    async def _answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, reply: "Reply") -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowedError(f"{scope['method']} is not allowed here; use POST.")
        caller = self._keyring.authenticate(headers)
        body = await self._read_body(headers, receive)
        received_s = time.perf_counter()
        request = reply.api.parse(body, self._base)
        target = self._resolver.resolve(request.model)
        if target.version is not None:
            reply.headers.append((b"x-turntable-adapter", target.engine_model.encode()))
        call = Call(
            id=reply.own_id,
            client_id=reply.client_id,
            caller=caller,
            api=reply.api,
            request=request,
            target=target,
            received_s=received_s,
            headers={k.decode("latin-1"): headers[k].decode("latin-1") for k in _TRACE_HEADERS if k in headers},
        )
        with cancelled_when_gone(scope):
            if call.request.stream:
                await self._stream(call, reply)
            else:
                async with self._inference.exchange(call) as exchange:
                    await reply.whole(200, _JSON, await exchange.read())

    async def _stream(self, call: Call, reply: "Reply") -> None:
        with KeepAlive(self._keep_alive_s, lambda: reply.sent_s, reply.keep_alive).running():
            async with self._inference.exchange(call) as exchange:
                async for events in exchange.stream():
                    await reply.part(events)
                await reply.end()

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The request body; raises `RequestTooLargeError` past the limit without reading on, `ClientTooSlowError`
        when it does not arrive in time.
        """
        limit = self._max_body_bytes
        too_large = RequestTooLargeError(f"The body is larger than {limit} bytes; send less, or raise max_body_bytes.")
        if int(headers.get(b"content-length", b"0")) > limit:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError as error:
            raise ClientTooSlowError(
                f"The body did not arrive within {self._body_timeout_s:g} s; send it faster."
            ) from error


class Reply:
    """Sends one response; remembers whether it has begun, which decides how an error can still be told."""

    def __init__(self, send: Send, api: Api, own_id: str, *, client_id: str | None) -> None:
        self._send = send
        self._begun = False
        self._ended = False
        self._started_s = time.perf_counter()
        self.sent_s = self._started_s
        self.api = api
        self.own_id = own_id
        self.client_id = client_id
        self.headers: Headers = [(b"x-request-id", (self.client_id or self.own_id).encode())]
        """Sent with the response, whatever it is."""

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A complete response."""
        await self._start(status, [*headers, (b"content-length", str(len(body)).encode())])
        self._ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def part(self, body: bytes) -> None:
        """A piece of a stream; the first piece sends the headers."""
        if not self._begun:
            await self._start(200, _EVENTS)
        self.sent_s = time.perf_counter()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        self._ended = True
        await self._send({"type": "http.response.body", "body": b""})

    async def error(self, error: GatewayError) -> None:
        """An error as a response, or as the last event of a stream that has begun."""
        if self._begun:
            await self.part(self.api.error_event(error))
            await self.end()
        else:
            await self.whole(error.status, [*_JSON, *error.headers()], self.api.error_body(error))

    async def keep_alive(self) -> None:
        """A comment that clients ignore."""
        if not self._ended:
            await self.part(self.api.keep_alive)

    async def _start(self, status: int, headers: Headers) -> None:
        self._begun = True
        elapsed_ms = (time.perf_counter() - self._started_s) * 1000
        headers = [*headers, *self.headers, (b"openai-processing-ms", b"%d" % elapsed_ms)]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


@contextlib.contextmanager
def cancelled_when_gone(scope: Scope) -> Iterator[None]:
    """Cancel what runs inside as soon as the client closes its connection, and turn that into `ClientGoneError`."""
    task = asyncio.current_task()
    assert task is not None, "requests run in tasks"
    gone = False

    def cancel() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    when_gone = scope["extensions"][WHEN_GONE]
    when_gone(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        when_gone(None)
