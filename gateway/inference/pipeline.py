"""Salts for the engine's cache of prompts: what one tenant asked is not found there by another.

The engine tells how many tokens of a prompt it had cached, so a shared cache tells whoever asks what others asked.

The life of an inference request on one page: admit -> ledger -> pin -> engine, contexts that clean up
after themselves.

Leaving the contexts, exactly once and however the request ended: the engine's stream is closed, the adapter unpinned,
the row settled, the metrics counted, the slot given back.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from gateway.background import Background
from gateway.clock import now_us
from gateway.core import MOST_TOKENS, Usage, UsageSource
from gateway.costs.request_price import RequestPrices
from gateway.engines.client import translate
from gateway.engines.engine import Engine, EngineRequest
from gateway.engines.pool import EngineDispatch, EnginePool
from gateway.errors import GatewayError, InternalError, InvalidRequestError
from gateway.inference.admission import Admission
from gateway.inference.poison_requests import PoisonRequests
from gateway.inference.relay import Deadline, RequestContext, ResponseRelay, Timeouts
from gateway.inference.routing import Target
from gateway.inference.settlement import Settlement
from gateway.metering import Entry, Finish, Ledger
from gateway.metering.refusal_log import without_secrets
from gateway.metrics import Metrics
from gateway.quota.manager import QuotaGrant, QuotaManager


class CacheSalts:
    """Gives each tenant a salt that nobody else can have; `digest` hashes under a secret of this installation."""

    def __init__(self, digest: Callable[[bytes], bytes], *, is_shared: bool) -> None:
        self._digest = digest
        self._is_shared = is_shared

    def __call__(self, tenant: str, own: str | None) -> str | None:
        """The salt of a request; one that the client names (`own`) parts the tenant's own cache further. None when
        tenants share the cache and the client names none.
        """
        if self._is_shared and own is None:
            return None
        parts = (b"cache salt", tenant.encode("utf-8", "surrogatepass"), (own or "").encode("utf-8", "surrogatepass"))
        return self._digest(b"\0".join(parts)).hex()


log = logging.getLogger(__name__)

# The client left, or the answer took too long: the engine has worked all the same.
_CUT_OFF = frozenset({499, 504})
_NOTE_EVERY_S = 5.0


class Inference:
    """Opens exchanges: the one place where a request's steps stand in order."""

    def __init__(
        self,
        admission: Admission,
        suspects: PoisonRequests,
        ledger: Ledger,
        pool: EnginePool,
        metrics: Metrics,
        timeouts: Timeouts,
        prices: RequestPrices,
        allowance: QuotaManager,
        background: Background,
        *,
        salt_of: Callable[[str, str | None], str | None],
        max_sequences: int,
    ) -> None:
        """`salt_of` a tenant, and of the salt that a client named, is what the engine keeps its cache apart by."""
        self._salt_of = salt_of
        self._max_sequences = max_sequences
        self._admission = admission
        self._suspects = suspects
        self._ledger = ledger
        self.pool = pool
        self._metrics = metrics
        self._timeouts = timeouts
        self._prices = prices
        self._allowance = allowance
        self.settlement = Settlement(ledger, pool, prices, background.group("settlement"))
        self.running: dict[str, _Row] = {}
        self._observers: list[Callable[[RequestContext, Entry], None]] = []

    def observe(self, *ended: Callable[[RequestContext, Entry], None]) -> None:
        """Have each of `ended` see every request at its end."""
        self._observers += ended

    @contextlib.asynccontextmanager
    async def exchange(self, call: RequestContext) -> AsyncIterator[ResponseRelay]:
        """Everything that may still become an HTTP status happens before this yields."""
        self._check_sequences(call)
        self._suspects.check(hash(call.request.body))
        self.pool.require_ready()
        async with (
            self._allowance.admit(call, self._prices.price) as permit,
            self._admission.slot() as waited_s,
        ):
            call.api.identify(call.request, call.id)
            salt = self._salt_of(call.caller.tenant, call.request.document.get("cache_salt"))
            body = call.api.engine_body(call.request, call.target.engine_model, salt)
            row = _Row(self, call, permit)
            row.waited_s = waited_s
            with row as entry, Deadline(self._timeouts, is_stream=call.request.stream) as deadline:
                async with self._dispatch(call, entry, body) as (response, engine):
                    metrics = self._metrics.of_requests(call.target.label, engine.name)
                    metrics.queue_s.observe(waited_s)
                    metrics.overhead_s.observe(entry.sent_s - call.received_s - waited_s)
                    if response.status != 200:
                        told = await response.read()
                        error = translate(call.api.path, response.status, told)
                        raise call.api.explain(call.request, error, told)
                    exchange = row.exchange = ResponseRelay(call, entry, response, deadline, permit.price)
                    try:
                        yield exchange
                    finally:
                        exchange.close()
                    tokens = entry.usage.completion_tokens // call.request.sequences
                    engine.learn_pace((now_us() - entry.opened_us) / 1e6, tokens)

    def _check_sequences(self, call: RequestContext) -> None:
        count = call.request.sequences
        if count > self._max_sequences:
            name = call.api.sequences_field(call.request)
            raise InvalidRequestError(
                f"The request asks for {count} sequences (prompts times answers); at most {self._max_sequences} are "
                "served in one request, so that it cannot keep others waiting; send it in parts.",
                param=name,
            )

    def _dispatch(self, call: RequestContext, entry: Entry, body: bytes) -> EngineDispatch:
        def post(engine: Engine) -> EngineRequest:
            headers = {"x-request-id": call.id, **call.headers}
            return engine.post(call.api.path, body, headers, fingerprint=hash(call.request.body))

        def trying(engine: Engine) -> None:
            if entry.engine is not None:
                self._metrics.retries.inc()
                if call.api.metered:
                    self._ledger.open_next_attempt(entry)
            entry.engine, entry.engine_run = engine.name, engine.run
            entry.mark_sent()

        return EngineDispatch(self.pool, call.target.version, post, trying)

    def begin(self, call: RequestContext, permit: QuotaGrant, waited_s: float = 0.0) -> Entry:
        """Make the row of a request durable."""
        version = call.target.version
        entry = Entry(
            request_id=call.id,
            tenant=call.caller.tenant,
            key_id=call.caller.key_id,
            model=call.request.model,
            adapter=version.name if version else None,
            digest=version.digest if version else None,
            stream=call.request.stream,
            endpoint=call.api.path,
            client_request_id=call.client_id,
            choices=call.api.choices(call.request),
            queue_us=int(waited_s * 1e6),
        )
        permit.begin(entry)
        if call.api.metered:
            try:
                self._ledger.open(entry)
            except GatewayError as error:
                entry.status = error.status
                self._count(entry, call.target)
                raise
            call.is_on_ledger = True
        return entry

    def end(self, call: RequestContext, entry: Entry, permit: QuotaGrant) -> None:
        """Count and settle a request that has ended: settled it is, whatever becomes of the rest."""
        if entry.evidence is UsageSource.NONE and (entry.status in _CUT_OFF or entry.finish is Finish.COMPLETED):
            self.estimate(entry, call)
        for learn in (self._count_call, *self._observers):
            try:
                learn(call, entry)
            except Exception:  # the answer has been sent
                log.exception("request %s: who learns from its end failed", call.id)
        if call.api.metered:
            self.settlement.settle(entry, permit)
        else:
            permit.settle(entry)

    def _count_call(self, call: RequestContext, entry: Entry) -> None:
        self._count(entry, call.target)

    def note_progress(self) -> None:
        """Keep on the ledger what requests have used that have run for a while; call it every second or so."""
        for row in self.running.values():
            if (progress := row.progress()) is not None:
                self._ledger.note(progress)

    def estimate(self, entry: Entry, call: RequestContext) -> None:
        """Tokens of a whole answer that was cut off, or that the engine did not count: four bytes are about a prompt
        token, and the engine's pace tells how far each of its sequences got.
        """
        engine = next((engine for engine in self.pool.engines if engine.name == entry.engine), None)
        if engine is None or not entry.sent_s or not engine.s_per_token:
            return
        each = int((time.perf_counter() - entry.sent_s) / engine.s_per_token)
        generated = min(each, call.api.most_tokens(call.request)) * call.request.sequences
        entry.usage = Usage(len(call.request.body) // 4, min(generated, MOST_TOKENS))
        entry.evidence = UsageSource.ESTIMATED

    def _count(self, entry: Entry, target: Target) -> None:
        self._metrics.of_answers(target.label, entry.status).inc()
        if entry.engine is None:
            return
        metrics, latency_us = self._metrics.of_requests(target.label, entry.engine), now_us() - entry.opened_us
        metrics.prompt_tokens.inc(entry.usage.prompt_tokens)
        metrics.completion_tokens.inc(entry.usage.completion_tokens)
        metrics.latency_s.observe(latency_us / 1e6)
        if entry.ttft_us is not None:
            metrics.ttft_s.observe(entry.ttft_us / 1e6)
            if entry.chunks > 1:
                metrics.itl_s.observe((latency_us - entry.ttft_us) / (entry.chunks - 1) / 1e6)


class _Row:
    """A request's row: opened on entering, and settled on leaving with what the error says about the end."""

    __slots__ = ("_call", "_entry", "_inference", "_noted_s", "_permit", "exchange", "waited_s")

    def __init__(self, inference: Inference, call: RequestContext, permit: QuotaGrant) -> None:
        self._inference = inference
        self._call = call
        self._permit = permit
        self._entry: Entry
        self._noted_s = call.received_s
        self.exchange: ResponseRelay | None = None
        self.waited_s = 0.0

    def progress(self) -> Entry | None:
        """A copy of the row with the tokens so far, every few seconds; None in between."""
        now_s = time.perf_counter()
        if now_s - self._noted_s < _NOTE_EVERY_S:
            return None
        self._noted_s, progress = now_s, replace(self._entry)
        if self.exchange is not None:
            self.exchange.count(progress)
        if progress.evidence is UsageSource.NONE:
            self._inference.estimate(progress, self._call)
        return progress

    def __enter__(self) -> Entry:
        self._entry = self._inference.begin(self._call, self._permit, self.waited_s)
        if self._call.api.metered:
            self._inference.running[self._call.id] = self
        return self._entry

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        entry = self._entry
        self._inference.running.pop(self._call.id, None)
        if isinstance(error, asyncio.CancelledError):
            entry.finish, entry.status = Finish.CLIENT_ABORT, 499
        elif isinstance(error, GatewayError):
            entry.finish = Finish.REFUSED if error.status < 500 else Finish.ENGINE_ERROR
            entry.status = error.status
            entry.error_code, entry.error_message = error.code, without_secrets(str(error))
        elif error is not None:  # a defect of ours
            entry.finish, entry.status = Finish.ENGINE_ERROR, InternalError.status
            entry.error_code, entry.error_message = "internal_error", str(InternalError())
        self._inference.end(self._call, entry, self._permit)
