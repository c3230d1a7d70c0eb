"""The inference pipeline: every step of a request, from the socket to the engine and back, in one function."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from adapters import Version
from gateway.auth import Keyring, Scope
from gateway.core import RequestContext, Target
from gateway.costs.request_price import HEADER, RequestPrices
from gateway.engines.client import translate
from gateway.engines.engine import Engine
from gateway.engines.http import EngineConnection
from gateway.engines.pool import EnginePool
from gateway.errors import (
    AdapterGoneError,
    EngineBrokeOffError,
    EngineUnreachableError,
    GatewayError,
    InvalidRequestError,
)
from gateway.inference.admission import Admission
from gateway.inference.cache_salts import CacheSalts
from gateway.inference.poison_requests import PoisonRequests
from gateway.inference.request_run import Client, RequestRun, Timeouts
from gateway.inference.routing import Resolver, choose_shadow, choose_target, routing_key
from gateway.inference.settlement import Settlement
from gateway.quota.manager import QuotaManager
from gateway.server import ClientCycle
from gateway.server.request_body import LARGE_BYTES, BodyReader, ClientGoneError, LargeBodies

log = logging.getLogger(__name__)
_ADAPTER = b"x-turntable-adapter"
_MAX_LOADS = 5
"""Attempts to load an adapter for one request while others keep evicting it from the engine."""


@dataclass(frozen=True, kw_only=True)
class InferencePipeline:
    """The steps of a request and the services that they use.

    `samples` decides which answers are kept for drift; `max_sequences` bounds the prompts times answers of a request.
    """

    keyring: Keyring
    bodies: BodyReader
    resolver: Resolver
    samples: Callable[[Target], bool]
    poison: PoisonRequests
    quota: QuotaManager
    prices: RequestPrices
    admission: Admission
    salts: CacheSalts
    settlement: Settlement
    pool: EnginePool
    timeouts: Timeouts
    base: str
    max_sequences: int
    large_bodies: LargeBodies = field(default_factory=LargeBodies)

    async def serve(self, context: RequestContext, client: Client, cycle: ClientCycle | None = None) -> None:
        """Run one request from its first byte to its settled row; beside each step, the status of what it refuses.

        `cycle` is where the body comes from; None for a shadow request, which comes authenticated, parsed and routed.
        However a step ends, `_finish` undoes those that were taken. Raises `GatewayError`, and `ClientGoneError`.
        """
        run = RequestRun(context, client, self.timeouts)
        try:
            if cycle is not None:
                self._authenticate(context)  # 401, 403
                body = await self._read_body(context, cycle)  # 408, 413, 415, 429
                await self._parse(context, cycle, body)  # the request guards: 400
                self._route(context)  # 404
            client.watch(run.client_left, is_stream=context.request.stream)
            self._check(context)  # 400, 503
            run.price = self.prices.price
            run.grant = await self.quota.admit(context, run.price)  # 400, 429, 503
            run.waited_s = await self.admission.acquire()  # 503
            run.has_slot = True
            if run.waited_s and cycle is not None:
                self._route_again(context)  # 401, 403, 404
            engine_body = self._engine_body(context)  # 400
            self.settlement.open(run)  # 503, 507; the row is durable before the engine sees the request
            run.start_deadline()  # 504
            connection = await self._pin_and_send(run, engine_body)  # 422, 502, 503
            self.settlement.observe_overhead(run)
            if connection.status != 200:
                raise await _engine_error(run, connection)
            if context.request.stream:
                await _relay_stream(run, connection)
            else:
                await _relay_whole(run, connection)
        except BaseException as error:
            self._finish(run, error)
            raise
        self._finish(run, None)

    def _finish(self, run: RequestRun, error: BaseException | None) -> None:
        """Undo the steps that were taken, the last one first and each once: unpin, settle, give slot and quota back.

        Without an `await`, so no cancellation comes in between. Raises what a cancellation was for, if not `error`.
        """
        reason = run.reason_of_end(error)
        undo = [partial(run.unpin, reason), partial(self.settlement.finish, run, reason)]
        if run.has_slot:
            undo.append(partial(self.admission.release))
        if run.grant is not None:
            undo.append(partial(run.grant.cancel))
        undo.append(partial(run.client.unwatch))
        for step in undo:
            try:
                step()
            except Exception:  # a defect of ours: the other steps and the reason of the end are not lost to it
                log.exception("request %s: a step of its end failed", run.context.id)
        if reason is not None and reason is not error:
            raise reason from error

    def _authenticate(self, context: RequestContext) -> None:
        context.caller = self.keyring.authenticate(context.headers)
        context.caller.require_scope(Scope.INFERENCE)

    async def _read_body(self, context: RequestContext, cycle: ClientCycle) -> bytes:
        """Read the body. What is refused whatever it says is refused before, and again if reading took time."""
        self.quota.refuse_early(context)
        body = self.bodies.take(cycle, context.headers)
        if body is None:
            body = await self.bodies.read(cycle, context.headers)
            self._authenticate(context)
            self.quota.refuse_early(context)
        context.received_s = time.perf_counter()
        return body

    async def _parse(self, context: RequestContext, cycle: ClientCycle, body: bytes) -> None:
        """Parse and guard the body; large ones one at a time."""
        if len(body) <= LARGE_BYTES:
            context.request = context.api.parse(body, self.base)
            return
        async with self.large_bodies.parsing(context.caller.key_id, body):
            if cycle.disconnected:
                raise ClientGoneError
            self._authenticate(context)
            self.quota.refuse_early(context)
            context.request = context.api.parse(body, self.base)

    def _route(self, context: RequestContext) -> None:
        """Choose the target, canary and shadow included, and whether the answer is sampled."""
        request, caller = context.request, context.caller
        route = self.resolver.route_for(caller, request.model)
        target = route.target
        if route.canary is not None:
            target = choose_target(route, routing_key(request.document, caller, context.id))
        if route.shadow is not None:
            context.shadow_target = choose_shadow(route, context.id)
        context.target = target
        if target.version is not None:
            context.response_headers.append((_ADAPTER, target.engine_model.encode()))
        context.is_sampled = self.samples(target)
        if context.is_sampled or context.shadow_target is not None:
            context.captured = []

    def _route_again(self, context: RequestContext) -> None:
        """Authenticate and route after a wait: meanwhile a key may have been revoked, or another version promoted."""
        self._authenticate(context)
        context.response_headers = [header for header in context.response_headers if header[0] != _ADAPTER]
        context.shadow_target = context.captured = None
        self._route(context)

    def _check(self, context: RequestContext) -> None:
        """Refuse too many sequences, a poison request, and any request while no engine is up."""
        request = context.request
        if request.sequences > self.max_sequences:
            raise InvalidRequestError(
                f"The request asks for {request.sequences} sequences (prompts times answers); at most "
                f"{self.max_sequences} are served in one request, so that it cannot keep others waiting; send it in "
                "parts.",
                param=context.api.sequences_field(request),
            )
        self.poison.check(hash(request.body))
        self.pool.require_ready()

    def _engine_body(self, context: RequestContext) -> bytes:
        request = context.request
        salt = self.salts.salt(context.caller.tenant, request.document.get("cache_salt"))
        target = context.target
        return context.api.engine_body(
            request,
            target.engine_model,
            request_id=context.id,
            salt=salt,
            template_kwargs=template_kwargs(target.version),
        )

    async def _pin_and_send(self, run: RequestRun, body: bytes) -> EngineConnection:
        """Choose an engine, pin the adapter there and send; returns once the response headers are here.

        An adapter that was taken out of the engine in the last moment is loaded again; a second engine gets the request
        only when the first never accepted it. In both cases no engine has seen it.
        """
        context, version = run.context, run.context.target.version
        headers = {"x-request-id": context.id, **context.trace_headers}
        unreachable: Engine | None = None
        loads = 0
        while True:
            engine = self.pool.choose(version, avoid=unreachable)
            try:
                run.pinned = await engine.pin(version)
                self.settlement.begin_attempt(run, engine)
                fingerprint = hash(context.request.body)
                return await run.pinned.send(context.api.path, body, headers, fingerprint=fingerprint)
            except AdapterGoneError as error:
                run.unpin(error)
                loads += 1
                if loads == _MAX_LOADS:
                    raise
            except EngineUnreachableError as error:
                run.unpin(error)
                if unreachable is not None or len(self.pool.engines) < 2:
                    raise
                unreachable, loads = engine, 0


def template_kwargs(version: Version | None) -> Mapping[str, Any]:
    """Return the variables of the chat template that an adapter was trained with; none for the base."""
    kwargs = version.manifest.training.get("chat_template_kwargs") if version is not None else None
    return kwargs if isinstance(kwargs, dict) else {}


async def _engine_error(run: RequestRun, connection: EngineConnection) -> GatewayError:
    """Read an engine's error and translate it into the terms of the request."""
    answer = await connection.read()
    return run.explain(translate(run.context.api.path, connection.status, answer), answer)


async def _relay_whole(run: RequestRun, connection: EngineConnection) -> None:
    """Read the engine's whole answer, rewrite it, and send it."""
    context, entry = run.context, run.entry
    assert entry is not None, "opened"
    body = await connection.read()
    entry.mark_first_byte()
    answer, entry.usage = context.api.whole(body, run.names)
    entry.evidence = entry.usage.evidence
    if context.captured is not None:
        context.captured.append(answer)
    if HEADER in context.headers:
        context.response_headers += run.price.headers(run.price.cost_nano_usd(entry.usage))
    await run.client.send_whole(answer)


async def _relay_stream(run: RequestRun, connection: EngineConnection) -> None:
    """Relay the engine's stream, rewritten; raises `EngineBrokeOffError` when it ends before it is complete.

    Until the first events are here an error is still a status. After them, chunks go from socket to socket in one
    callback (`RequestRun.relay`), and this task wakes only at the end or when the client reads too slowly.
    """
    entry, client = run.entry, run.client
    assert entry is not None, "opened"
    rewriter = run.rewriter = run.context.api.stream(run.context.request, run.names)
    events = b""
    while not events and (chunk := await connection.next_chunk()):
        events = run.rewrite(chunk)
        if not events:
            run.raise_failure()
    if not events:
        raise EngineBrokeOffError
    entry.mark_first_byte()  # where TTFT ends
    run.first_byte_came()
    await client.send_events(events)
    while True:
        run.raise_failure()
        run.client_is_full = False
        await connection.pump(run.relay)
        if not run.client_is_full:
            break
        await client.drained()
    if not rewriter.saw_end:
        raise EngineBrokeOffError
    await client.send_end()
