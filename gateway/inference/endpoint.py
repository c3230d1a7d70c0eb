"""The inference endpoints as raw ASGI: HTTP in, HTTP out, with no framework between the engine's bytes and the socket.

The steps of a request are in `gateway.inference.pipeline`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from gateway.clock import now_us
from gateway.core import RequestContext
from gateway.errors import GatewayError, GatewayStoppedError, InternalError, MethodNotAllowedError
from gateway.inference.formats import APIS
from gateway.inference.pipeline import InferencePipeline
from gateway.metering.refusal_log import CLIENT_GONE, Refusal, RefusalLog, without_secrets
from gateway.server import ClientCycle, cycle_of
from gateway.server.cycle import Receive, Send
from gateway.server.request_body import ClientGoneError
from gateway.server.request_id import RequestIds, client_request_id

log = logging.getLogger(__name__)
_LAST_WORD_S = 1.0
"""How long a client may take to receive why its request is cut at shutdown."""

Scope = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]

_JSON: Headers = [(b"content-type", b"application/json")]
_EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class InferenceEndpoint:
    """The ASGI application of the inference paths (`APIS`); idle streams get a comment every `keep_alive_s`."""

    def __init__(
        self, pipeline: InferencePipeline, ids: RequestIds, refusals: RefusalLog, *, keep_alive_s: float
    ) -> None:
        self._pipeline = pipeline
        self._ids = ids
        self._refusals = refusals
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; after the first byte of a stream, errors are sent as events."""
        headers = dict(scope["headers"])
        context = RequestContext(self._ids.new(), client_request_id(headers), APIS[scope["path"]], headers)
        context.response_headers.append((b"x-request-id", (context.client_id or context.id).encode()))
        cycle, send = cycle_of(scope, receive, send)
        client = HttpClient(context, cycle, send, self._keep_alive_s)
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowedError(scope["method"], scope["path"], ("POST",))
            await self._pipeline.serve(context, client, cycle)
        except ClientGoneError:
            message = "The client disconnected before it was answered."
            self._log_refusal(client, CLIENT_GONE, "client_abort", message)
        except asyncio.CancelledError:  # the server is stopped, and this request did not end in time
            self._log_refusal(client, GatewayStoppedError.status, GatewayStoppedError.code, str(GatewayStoppedError()))
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_LAST_WORD_S):
                    await client.send_error(GatewayStoppedError())
            raise
        except GatewayError as error:
            self._log_refusal(client, error.status, error.code, str(error))
            await client.send_error(error)
        except Exception:
            log.exception("request %s failed", context.id)
            self._log_refusal(client, InternalError.status, "internal_error", str(InternalError()))
            await client.send_error(InternalError())

    def _log_refusal(self, client: "HttpClient", status: int, code: str | None, message: str) -> None:
        """Write a failed request without a ledger row to the refusal log."""
        context = client.context
        if context.is_on_ledger:
            return
        caller, request, target = (getattr(context, name, None) for name in ("caller", "request", "target"))
        refusal = Refusal(
            id=context.id,
            client_id=context.client_id,
            at_us=now_us(),
            status=status,
            code=code,
            message=without_secrets(message),
            api=context.api.path,
            key_id=caller.key_id if caller else None,
            tenant=caller.tenant if caller else None,
            model=without_secrets(request.model[:128]) if request else None,
            version=target.engine_model if target and target.version else None,
            stream=request.stream if request else None,
            took_us=int((time.perf_counter() - client.started_s) * 1e6),
        )
        self._refusals.add(refusal)


class HttpClient:
    """The client of one request: sends the response, keeps an idle stream alive, and reports a disconnect."""

    __slots__ = (
        "_beat",
        "_has_begun",
        "_has_ended",
        "_keep_alive_s",
        "_last_events",
        "_send",
        "_sent_s",
        "_timer",
        "context",
        "cycle",
        "started_s",
    )

    def __init__(self, context: RequestContext, cycle: ClientCycle, send: Send, keep_alive_s: float) -> None:
        self.context = context
        self.cycle = cycle
        self.started_s = time.perf_counter()
        self._send = send
        self._keep_alive_s = keep_alive_s
        self._has_begun = self._has_ended = False
        self._sent_s = self.started_s
        self._last_events = b""
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None

    def watch(self, gone: Callable[[], object], *, is_stream: bool) -> None:
        """Call `gone` when the client disconnects, and keep a stream alive. `unwatch` must follow."""
        self.cycle.when_gone(gone)
        if is_stream and self._keep_alive_s:
            self._check_idle_in(self._keep_alive_s)

    def unwatch(self) -> None:
        """Stop the callback and the keep-alive of `watch`."""
        self.cycle.when_gone(None)
        if self._timer is not None:
            self._timer.cancel()
        if self._beat is not None:
            self._beat.cancel()

    async def send_whole(self, answer: bytes) -> None:
        """Send the whole response."""
        await self._send_response(200, _JSON, answer)

    async def send_events(self, events: bytes) -> None:
        """Send events of a stream; the first ones come with the response's head."""
        self._last_events = events
        await self._send_part(events)

    def write_events(self, events: bytes) -> bool:
        """Write events of a stream that has begun at once; False when `drained` has to be awaited before more."""
        self._sent_s, self._last_events = time.perf_counter(), events
        return self.cycle.write(events)

    async def drained(self) -> None:
        """Wait until the client has read enough."""
        await self.cycle.drained()

    async def send_end(self) -> None:
        """End a stream."""
        self._has_ended = True
        await self._send({"type": "http.response.body", "body": b""})

    async def send_error(self, error: GatewayError) -> None:
        """Send an error as the response, or as the last event of a stream that has begun; nothing after the end."""
        if self._has_ended:
            return
        api = self.context.api
        if self._has_begun:
            await self._send_part(api.error_event(error, self._last_events))
            await self.send_end()
        else:
            await self._send_response(error.status, [*_JSON, *error.headers()], api.error_body(error))

    async def _send_part(self, body: bytes) -> None:
        if not self._has_begun:
            await self._begin(200, _EVENTS)
        self._sent_s = time.perf_counter()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _send_response(self, status: int, headers: Headers, body: bytes) -> None:
        await self._begin(status, [*headers, (b"content-length", str(len(body)).encode())])
        self._has_ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def _begin(self, status: int, headers: Headers) -> None:
        self._has_begun = True
        elapsed_ms = (time.perf_counter() - self.started_s) * 1000
        headers = [*headers, *self.context.response_headers, (b"openai-processing-ms", b"%d" % elapsed_ms)]
        try:
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
        except BaseException:  # cancelled while the client did not read: what comes next still needs a head
            self._has_begun = False
            raise

    def _check_idle_in(self, wait_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._check_idle)

    def _check_idle(self) -> None:
        idle_s = time.perf_counter() - self._sent_s
        if idle_s >= self._keep_alive_s:
            if self._beat is None or self._beat.done():
                self._beat = asyncio.ensure_future(self._keep_alive())
            idle_s = 0.0
        self._check_idle_in(self._keep_alive_s - idle_s)

    async def _keep_alive(self) -> None:
        """Send a comment that clients ignore."""
        if not self._has_ended:
            await self._send_part(self.context.api.keep_alive)
