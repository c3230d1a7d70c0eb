"""The inference endpoints as raw ASGI: no framework between the engine's bytes and the client's socket.

Keep-alive: a stream that is silent for long carries comments, so that nothing in between cuts the connection.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from gateway.auth import Caller, Keyring
from gateway.auth import Scope as KeyScope
from gateway.clock import now_us
from gateway.costs.request_price import HEADER
from gateway.errors import GatewayError, InternalError, MethodNotAllowedError
from gateway.inference.formats import APIS, Api, InferenceRequest
from gateway.inference.pipeline import Inference
from gateway.inference.relay import RequestContext
from gateway.inference.routing import Resolver, Target, choose, mirrored_to, stickiness
from gateway.metering.refusal_log import CLIENT_GONE, Refusal, RefusalLog, without_secrets
from gateway.quota.manager import QuotaManager
from gateway.server import CYCLE, Cycle
from gateway.server.request_body import LARGE_BYTES, BodyReader, ClientGoneError, LargeBodies
from gateway.server.request_id import RequestIds, client_request_id


class KeepAlive:
    """Calls `beat` whenever nothing was sent for `interval_s`; costs a timer per stream and nothing per chunk."""

    def __init__(self, interval_s: float, sent_s: Callable[[], float], beat: Callable[[], Awaitable[None]]) -> None:
        self._interval_s = interval_s
        self._sent_s = sent_s
        self._beat = beat
        self._timer: asyncio.TimerHandle | None = None
        self._beats: set[asyncio.Future[None]] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch the stream for as long as the context is open; an interval of 0 watches nothing."""
        if self._interval_s:
            self._look_in(self._interval_s)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for beat in self._beats:
                beat.cancel()

    def _look_in(self, wait_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _look(self) -> None:
        silent_s = time.perf_counter() - self._sent_s()
        if silent_s >= self._interval_s:
            beat = asyncio.ensure_future(self._beat())
            self._beats.add(beat)
            beat.add_done_callback(self._beats.discard)
            silent_s = 0.0
        self._look_in(self._interval_s - silent_s)


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


class InferenceEndpoint:
    """The ASGI application for every path in `APIS`."""

    def __init__(
        self,
        inference: Inference,
        keyring: Keyring,
        resolver: Resolver,
        ids: RequestIds,
        watches: Callable[[Target], bool],
        allowance: QuotaManager,
        bodies: BodyReader,
        refusals: RefusalLog,
        *,
        base: str,
        keep_alive_s: float,
    ) -> None:
        self._inference = inference
        self._keyring = keyring
        self._resolver = resolver
        self._base = base
        self._allowance = allowance
        self._bodies = bodies
        self._large_bodies = LargeBodies()
        self._keep_alive_s = keep_alive_s
        self._ids = ids
        self._watches = watches
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; after the first byte, errors become events."""
        api = APIS[scope["path"]]
        headers = dict(scope["headers"])
        reply = Reply(send, api, self._ids.new(), client_id=client_request_id(headers))
        try:
            await self._answer(scope, headers, receive, reply)
        except ClientGoneError:
            self._note(reply, CLIENT_GONE, "client_abort", "The client closed its connection before it was answered.")
        except GatewayError as error:
            self._note(reply, error.status, error.code, str(error))
            await reply.error(error)
        except Exception:
            log.exception("request %s failed", reply.own_id)
            self._note(reply, InternalError.status, "internal_error", str(InternalError()))
            await reply.error(InternalError())

    def _note(self, reply: "Reply", status: int, code: str | None, message: str) -> None:
        """Keep why a request failed that has no row to say it."""
        if reply.call is None or not reply.call.is_on_ledger:
            self._refusals.add(reply.refusal(status, code, message))

    async def _answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, reply: "Reply") -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowedError(scope["method"], scope["path"], ("POST",))
        caller = reply.caller = self._keyring.authenticate(headers)
        caller.demand(KeyScope.INFERENCE)
        cycle: Cycle = scope["extensions"][CYCLE]
        request, received_s = await self._read(caller, cycle, headers, receive, reply)
        reply.request = request
        route = self._resolver.route_for(caller, request.model)
        target = route.target
        if route.canary is not None:
            target = choose(route, stickiness(request.document, caller, reply.own_id))
        mirror_to = mirrored_to(route, reply.own_id) if route.shadow is not None else None
        if target.version is not None:
            reply.headers.append((b"x-turntable-adapter", target.engine_model.encode()))
        is_watched = self._watches(target)
        call = reply.call = RequestContext(
            id=reply.own_id,
            client_id=reply.client_id,
            caller=caller,
            api=reply.api,
            request=request,
            target=target,
            received_s=received_s,
            mirror_to=mirror_to,
            heard=[] if is_watched or mirror_to is not None else None,
            is_watched=is_watched,
            limit_headers=reply.headers,
            headers={k.decode("latin-1"): headers[k].decode("latin-1") for k in _TRACE_HEADERS if k in headers},
        )
        with CancelledWhenGone(cycle):
            if call.request.stream:
                await self._stream(call, reply, cycle)
            else:
                async with self._inference.exchange(call) as exchange:
                    answer = await exchange.read()
                    if HEADER in headers:
                        reply.headers += exchange.cost_headers()
                    await reply.whole(200, _JSON, answer)

    async def _stream(self, call: RequestContext, reply: "Reply", cycle: Cycle) -> None:
        def relay(events: bytes) -> bool:
            reply.sent_s, reply.sent = time.perf_counter(), events
            return cycle.write(events)

        with KeepAlive(self._keep_alive_s, lambda: reply.sent_s, reply.keep_alive).running():
            async with self._inference.exchange(call) as exchange:
                reply.sent = await exchange.first_events()
                await reply.part(reply.sent)
                while await exchange.relay(relay):
                    await cycle.drained()
                await reply.end()

    async def _read(
        self, caller: Caller, cycle: Cycle, headers: dict[bytes, bytes], receive: Receive, reply: "Reply"
    ) -> tuple[InferenceRequest, float]:
        """The request, and when its body was there. What can be refused without a body is refused before it is read,
        and again before it is parsed, if that took time.
        """
        self._allowance.refuse_early(caller, reply.api, reply.headers)
        body = self._bodies.at_hand(cycle, headers)
        if body is None:
            body = await self._bodies.read(headers, receive)
            self._allowance.refuse_early(caller, reply.api, reply.headers)
        received_s = time.perf_counter()
        if len(body) <= LARGE_BYTES:
            return reply.api.parse(body, self._base), received_s
        async with self._large_bodies.turn(caller.key_id, body):
            if cycle.disconnected:
                raise ClientGoneError
            self._allowance.refuse_early(caller, reply.api, reply.headers)
            return reply.api.parse(body, self._base), received_s


class Reply:
    """Sends one response; remembers whether it has begun, which decides how an error can still be told."""

    def __init__(self, send: Send, api: Api, own_id: str, *, client_id: str | None) -> None:
        self._send = send
        self._begun = False
        self._ended = False
        self._started_s = time.perf_counter()
        self.sent_s = self._started_s
        self.sent = b""
        """The latest events of the engine that were sent on: an error is told after them."""
        self.api = api
        self.own_id = own_id
        self.client_id = client_id
        self.caller: Caller | None = None
        self.request: InferenceRequest | None = None
        self.call: RequestContext | None = None
        self.headers: Headers = [(b"x-request-id", (self.client_id or self.own_id).encode())]
        """Sent with the response, whatever it is."""

    def refusal(self, status: int, code: str | None, message: str) -> Refusal:
        """What is known of the request so far, with why it ended."""
        version = self.call.target.engine_model if self.call and self.call.target.version else None
        return Refusal(
            id=self.own_id,
            client_id=self.client_id,
            at_us=now_us(),
            status=status,
            code=code,
            message=without_secrets(message),
            api=self.api.path,
            key_id=self.caller.key_id if self.caller else None,
            tenant=self.caller.tenant if self.caller else None,
            model=without_secrets(self.request.model[:128]) if self.request else None,
            version=version,
            stream=self.request.stream if self.request else None,
            took_us=int((time.perf_counter() - self._started_s) * 1e6),
        )

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
        """An error as a response, or as the last event of a stream that has begun; nothing when all has been sent."""
        if self._ended:
            return
        if self._begun:
            await self.part(self.api.error_event(error, self.sent))
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


class CancelledWhenGone:
    """Cancels what runs inside as soon as the client closes its connection, and turns that into `ClientGoneError`."""

    __slots__ = ("_is_gone", "_task", "_turn")

    def __init__(self, cycle: Cycle) -> None:
        self._turn = cycle
        self._is_gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "requests run in tasks"
        self._task = task
        self._turn.when_gone(self._cancel)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._turn.when_gone(None)
        if isinstance(error, asyncio.CancelledError) and self._is_gone and self._task.uncancel() == 0:
            raise ClientGoneError from None

    def _cancel(self) -> None:
        self._is_gone = True
        self._task.cancel()
