"""Settlement: the ledger row of each request, from durable to settled, with its metrics and who else learns of its end.

A row whose tokens the engine counted is settled at once. A request that was cut off is settled after asking the engine
what it used; until then its row stays open with the tokens seen so far, and a gateway that is killed meanwhile leaves
it with those. An engine that is busy takes a while to end an aborted request, and is asked again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from gateway.background import TaskSet
from gateway.clock import now_us
from gateway.core import MOST_TOKENS, RequestContext, Usage, UsageSource
from gateway.costs.request_price import RequestPrices, WorkPrice
from gateway.engines.client import EngineUsage
from gateway.engines.engine import Engine
from gateway.engines.pool import EnginePool
from gateway.errors import EngineTimeoutError, GatewayError, GatewayStoppedError, InternalError
from gateway.inference.request_run import RequestRun
from gateway.metering import Finish, Ledger, LedgerEntry
from gateway.metering.refusal_log import without_secrets
from gateway.metrics import Metrics
from gateway.quota.manager import QuotaGrant
from gateway.server.request_body import ClientGoneError

log = logging.getLogger(__name__)

EndObserver = Callable[[RequestContext, LedgerEntry], None]

# The client left, or the gateway was stopped: the engine has worked all the same.
_MAY_HAVE_WORKED = frozenset({Finish.CLIENT_ABORT, Finish.SHUTDOWN, Finish.COMPLETED})
_BYTES_PER_TOKEN = 4
_NOTE_EVERY_S = 5.0
_ASK_TIMEOUT_S = 5.0
_ASK_PAUSE_S = 1.0
_ASK_FOR_S = 120.0


class Settlement:
    """Open a row for each request and settle it once, however the request ends."""

    def __init__(
        self, ledger: Ledger, pool: EnginePool, prices: RequestPrices, metrics: Metrics, asking: TaskSet
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._prices = prices
        self._metrics = metrics
        self._asking = asking
        self._observers: list[EndObserver] = []
        self._running: dict[str, RequestRun] = {}
        self._silent_runs: set[str | None] = set()
        """Runs of engines without our plugin, which cannot be asked."""
        self._closing = asyncio.Event()

    def observe(self, *observers: EndObserver) -> None:
        """Call each observer with every request at its end."""
        self._observers += observers

    def open(self, run: RequestRun) -> None:
        """Make the row of a request durable; raises `DiskError` or `DatabaseAwayError` when it cannot be."""
        context, version = run.context, run.context.target.version
        entry = LedgerEntry(
            request_id=context.id,
            tenant=context.caller.tenant,
            key_id=context.caller.key_id,
            model=context.request.model,
            adapter=version.name if version else None,
            digest=version.digest if version else None,
            stream=context.request.stream,
            endpoint=context.api.path,
            client_request_id=context.client_id,
            choices=context.api.choices(context.request),
            queue_us=int(run.waited_s * 1e6),
        )
        if run.grant is not None:
            run.grant.date(entry)
        if context.api.metered:
            try:
                self._ledger.open(entry)
            except GatewayError as error:
                entry.status = error.status
                self._count(context, entry)
                raise
            context.is_on_ledger = True
            run.noted_s = context.received_s
            self._running[context.id] = run
        run.entry = entry

    def begin_attempt(self, run: RequestRun, engine: Engine) -> None:
        """Note on the row which engine gets the request now; a second one has a row of its own."""
        entry = run.entry
        assert entry is not None, "opened"
        if entry.engine is not None:
            self._metrics.retries.inc()
            entry.engine = entry.engine_run = None  # no engine has the new attempt yet, nor if its row is refused
            if run.context.api.metered:
                self._ledger.open_next_attempt(entry)
        entry.engine, entry.engine_run = engine.name, engine.run
        entry.mark_sent()

    def observe_overhead(self, run: RequestRun) -> None:
        """Count the seconds that the request waited, and those that the gateway added, until the engine got it."""
        entry = run.entry
        assert entry is not None, "opened"
        assert entry.engine is not None, "sent"
        metrics = self._metrics.of_requests(run.context.target.label, entry.engine)
        metrics.queue_s.observe(run.waited_s)
        metrics.overhead_s.observe(entry.sent_s - run.context.received_s - run.waited_s)

    def finish(self, run: RequestRun, error: BaseException | None) -> None:
        """Settle a request that has ended with `error`, and have observers see it; nothing without a row."""
        context, entry = run.context, run.entry
        if entry is None:
            return
        self._running.pop(context.id, None)
        _note_end(entry, error)
        try:
            self._note_usage(run, entry, error)
        except Exception:  # a row of unknown usage is better than one that stays open
            log.exception("request %s: its usage could not be noted", context.id)
        for observe in (self._count, *self._observers):
            try:
                observe(context, entry)
            except Exception:  # the answer has been sent
                log.exception("request %s: an observer of its end failed", context.id)
        if context.api.metered:
            self.settle(entry, run.price, run.grant)
        elif run.grant is not None:
            run.grant.settle(entry)

    def settle(self, entry: LedgerEntry, price: WorkPrice | None = None, grant: QuotaGrant | None = None) -> None:
        """Settle a row and the quota grant that pays for it; without `price`, at the present one."""
        engine = self._engine_to_ask(entry)
        if engine is None:
            self._settle(entry, price, grant)
            return
        self._asking.start(self._ask_and_settle(entry, price, grant, engine))
        if grant is not None:
            grant.release_rate(entry)
        self._ledger.note(entry)

    def note_progress(self) -> None:
        """Keep on the ledger what long requests have used so far; call it every second or so."""
        now_s = time.perf_counter()
        for run in self._running.values():
            if now_s - run.noted_s >= _NOTE_EVERY_S and run.entry is not None:
                run.noted_s, progress = now_s, replace(run.entry)
                run.count(progress)
                if progress.evidence is UsageSource.NONE:
                    self._estimate(run.context, progress)
                self._ledger.note(progress)

    async def close(self) -> None:
        """Return once every row is settled, with what the engines say now."""
        self._closing.set()
        await self._asking.join()

    def _engine_to_ask(self, entry: LedgerEntry) -> Engine | None:
        """Return the engine that may know better what a request used; None when there is nothing to ask."""
        is_certain = entry.evidence is UsageSource.EXACT or entry.finish is Finish.REFUSED
        if is_certain or entry.engine_run in self._silent_runs:
            return None
        return next((e for e in self._pool.ready if e.name == entry.engine and e.run == entry.engine_run), None)

    async def _ask_and_settle(
        self, entry: LedgerEntry, price: WorkPrice | None, grant: QuotaGrant | None, engine: Engine
    ) -> None:
        try:
            used = await self._ask(entry, engine)
            # An engine that has answered, and says that it generated nothing, has forgotten the request.
            if used is not None and (entry.first_byte_us is None or used.usage.completion_tokens):
                entry.usage, entry.choices, entry.evidence = used.usage, used.choices, UsageSource.EXACT
        except Exception:
            log.exception("%s did not say what request %s took", engine.name, entry.request_id)
        finally:
            self._settle(entry, price, grant)

    async def _ask(self, entry: LedgerEntry, engine: Engine) -> EngineUsage | None:
        """Return what the engine counted once it has ended the request; None when it does not say.

        A stalled engine may read our question before the request itself, so its first "unknown" does not count.
        """
        ends_s, was_unknown = time.monotonic() + _ASK_FOR_S, False
        while True:
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    used = await engine.client.worked_on(entry.request_id)
            except (GatewayError, TimeoutError):
                is_last = self._closing.is_set() or time.monotonic() > ends_s
                if is_last or not engine.is_ready or engine.run != entry.engine_run:
                    log.info("%s does not say what request %s took", engine.name, entry.request_id)
                    return None
            else:
                if used is None:
                    self._silent_runs.add(entry.engine_run)
                if used is None or used.usage.prompt_tokens or was_unknown:
                    return used
                was_unknown = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _ASK_PAUSE_S)

    def _settle(self, entry: LedgerEntry, price: WorkPrice | None, grant: QuotaGrant | None) -> None:
        price = price or self._prices.price
        with contextlib.ExitStack() as settling:  # the row is settled last, whatever is raised before
            settling.callback(self._ledger.settle, entry)
            if grant is not None:
                settling.callback(grant.settle, entry)
            entry.cost_nano_usd, entry.price_version = price.cost_nano_usd(entry.usage), price.version

    def _engine(self, entry: LedgerEntry) -> Engine | None:
        return next((engine for engine in self._pool.engines if engine.name == entry.engine), None)

    def _note_usage(self, run: RequestRun, entry: LedgerEntry, error: BaseException | None) -> None:
        """Note what a request used, as far as the gateway knows, and learn the engine's pace from a whole answer."""
        run.count(entry)
        if error is None and (engine := self._engine(entry)) is not None:
            tokens = entry.usage.completion_tokens // run.context.request.sequences
            engine.learn_pace((now_us() - entry.opened_us) / 1e6, tokens)
        was_late = entry.status == EngineTimeoutError.status
        if entry.evidence is UsageSource.NONE and (was_late or entry.finish in _MAY_HAVE_WORKED):
            self._estimate(run.context, entry)

    def _estimate(self, context: RequestContext, entry: LedgerEntry) -> None:
        """Estimate the tokens of an answer that the engine did not count: its prompt from its bytes, and each sequence
        from the engine's pace.
        """
        engine = self._engine(entry)
        if engine is None or not entry.sent_s or not engine.s_per_token:
            return
        request = context.request
        tokens_each = int((time.perf_counter() - entry.sent_s) / engine.s_per_token)
        generated = min(tokens_each, context.api.most_tokens(request)) * request.sequences
        entry.usage = Usage(len(request.body) // _BYTES_PER_TOKEN, min(generated, MOST_TOKENS))
        entry.evidence = UsageSource.ESTIMATED

    def _count(self, context: RequestContext, entry: LedgerEntry) -> None:
        """Count an ended request in the metrics."""
        label = context.target.label
        self._metrics.of_answers(label, entry.status).inc()
        if entry.engine is None:
            return
        metrics, latency_us = self._metrics.of_requests(label, entry.engine), now_us() - entry.opened_us
        metrics.prompt_tokens.inc(entry.usage.prompt_tokens)
        metrics.completion_tokens.inc(entry.usage.completion_tokens)
        metrics.latency_s.observe(latency_us / 1e6)
        if entry.ttft_us is not None and entry.stream:  # a whole answer has no first token to wait for
            metrics.ttft_s.observe(entry.ttft_us / 1e6)
            if entry.chunks > 1:
                metrics.itl_s.observe((latency_us - entry.ttft_us) / (entry.chunks - 1) / 1e6)


def _note_end(entry: LedgerEntry, error: BaseException | None) -> None:
    """Write onto a row how its request ended."""
    if isinstance(error, asyncio.CancelledError):
        error = GatewayStoppedError()
        entry.finish, entry.status = Finish.SHUTDOWN, error.status
        entry.error_code, entry.error_message = error.code, str(error)
    elif isinstance(error, ClientGoneError):
        entry.finish, entry.status = Finish.CLIENT_ABORT, 499
    elif isinstance(error, GatewayError):
        entry.finish = Finish.REFUSED if error.status < 500 else Finish.ENGINE_ERROR
        entry.status = error.status
        entry.error_code, entry.error_message = error.code, without_secrets(str(error))
    elif error is not None:  # a defect of ours
        entry.finish, entry.status = Finish.ENGINE_ERROR, InternalError.status
        entry.error_code, entry.error_message = "internal_error", str(InternalError())
