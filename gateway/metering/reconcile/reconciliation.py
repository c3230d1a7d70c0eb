"""Reconciliation of engine runs: all of them on demand, and those of serving engines periodically, with an alarm.

The monitor judges a reading when the next one is taken: by then the rows of all gateways are in the database.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import Engine as Database
from sqlalchemy import func, select

from gateway.clock import HOUR_US, SECOND_US, now_us
from gateway.engines.engine import Engine
from gateway.engines.pool import EnginePool
from gateway.metering.reconcile.engine_counters import EngineCounterReader, EngineCounterStore, EngineRunCounters
from gateway.metering.reconcile.ledger_totals import LedgerTotals, count_open, earliest_opened_us, ledger_totals
from gateway.metering.reconcile.recovery import Recovery
from gateway.metering.reconcile.verdict import ReconcileAgreement, ReconcileResult, reconcile
from gateway.metering.tables import usage_ledger
from gateway.threads import REPORTS

log = logging.getLogger(__name__)
_READ_AGAIN_US = HOUR_US
_LONGEST_WAIT_US = 600 * SECOND_US


class Reconciliation:
    """Compares the ledger of one database with the engines' counters; methods block. `flush` folds pending rows."""

    def __init__(self, database: Database, counters: EngineCounterStore, flush: Callable[[], object]) -> None:
        self._database = database
        self._counters = counters
        self._flush = flush
        self._final: dict[str, tuple[int, int, LedgerTotals]] = {}
        """By run: when its rows were read from the beginning, until when they were read, and their totals."""

    def reconcile_all(self, since_us: int) -> list[ReconcileResult]:
        """Reconcile every run of an engine read since then, from all its rows; newest first."""
        self._flush()
        return [
            self._reconcile(run, LedgerTotals(), earliest_opened_us(run.first_us))
            for run in self._counters.list(since_us)
        ]

    def reconcile_again(self, run: EngineRunCounters) -> ReconcileResult:
        """Reconcile a run that goes on; rows whose totals were final are read again only once an hour."""
        self._flush()
        began_us, read_until_us, known = self._final.get(run.run, (0, 0, LedgerTotals()))
        if now_us() - began_us > _READ_AGAIN_US:
            began_us, read_until_us, known = now_us(), earliest_opened_us(run.first_us), LedgerTotals()
        result = self._reconcile(run, known, read_until_us)
        if not result.running:  # all rows opened until then have ended, so their sums are final
            final = replace(result.booked, surely=result.booked.at_most)
            recent = {name: totals for name, totals in self._final.items() if now_us() - totals[1] < _READ_AGAIN_US}
            self._final = recent | {run.run: (began_us, run.seen_us + 1, final)}
        return result

    def unattributed(self, since_us: int) -> int:
        """Count interrupted rows that do not name their engine's run, if they reached one."""
        row = usage_ledger.c
        lost = (row.state == "interrupted", row.engine_run.is_(None), row.opened_us >= since_us)
        with self._database.connect() as connection:
            return int(connection.execute(select(func.count()).where(*lost)).scalar_one())

    def _reconcile(self, run: EngineRunCounters, known: LedgerTotals, from_us: int) -> ReconcileResult:
        with self._database.connect() as connection:
            running = count_open(connection, run.run, run.seen_us)
            found = ledger_totals(connection, run.run, (from_us, run.seen_us), run.asked_us)
        return reconcile(run, known + found, running)


class ReconcileGauges:
    """Prometheus gauges of the reconciliation of serving engines; an engine without counters is absent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ratio = Gauge(
            "turntable_ledger_engine_ratio",
            "Tokens on the ledger to tokens that the engine counted, over its present run.",
            ("engine", "kind"),
            registry=registry,
        )
        self._outside = Gauge(
            "turntable_ledger_engine_outside",
            "1 while ledger and engine differ by more than a thousandth.",
            ("engine",),
            registry=registry,
        )

    def set(self, engine: str, result: ReconcileResult) -> None:
        """Show the latest result of an engine."""
        for comparison in result.kinds:
            if comparison.ratio is not None:
                self._ratio.labels(engine, comparison.kind.removesuffix("_tokens")).set(comparison.ratio)
        self._outside.labels(engine).set(result.agreement is ReconcileAgreement.OUTSIDE)


class ReconcileMonitor:
    """Reads the counters of serving engines, recovers interrupted rows, reconciles, and logs when they differ."""

    def __init__(
        self,
        pool: EnginePool,
        *,
        reader: EngineCounterReader,
        counters: EngineCounterStore,
        reconciliation: Reconciliation,
        gauges: ReconcileGauges,
        recovery: Recovery,
    ) -> None:
        self._pool = pool
        self._reader = reader
        self._counters = counters
        self._reconciliation = reconciliation
        self._gauges = gauges
        self._recovery = recovery
        self._waiting: dict[str, EngineRunCounters] = {}
        self._is_outside: dict[str, bool] = {}

    async def run(self) -> None:
        """Read, recover and reconcile once."""
        await self.read_counters()
        await self._recovery.run()
        await REPORTS.run(self._reconcile)

    async def read_counters(self) -> None:
        """Read the counters of all serving engines."""
        await asyncio.gather(*(self._read(engine) for engine in self._pool.ready))

    async def _read(self, engine: Engine) -> None:
        run = await self._reader.read(engine.name, engine.client)
        if run is not None:
            engine.supervisor.run_id = run

    def _reconcile(self) -> None:
        newest = {run.run: run for run in self._counters.list()}
        for engine in self._pool.ready:
            run = newest.get(engine.run or "")
            if run is None:
                continue
            waiting = self._waiting.get(engine.name)
            if waiting is None or waiting.run != run.run:
                self._waiting[engine.name] = run
                continue
            result = self._reconciliation.reconcile_again(waiting)
            is_old = run.asked_us - waiting.asked_us > _LONGEST_WAIT_US
            if result.agreement is ReconcileAgreement.RUNNING and not is_old:
                continue  # judged again when the running requests have ended
            self._waiting[engine.name] = run
            self._gauges.set(engine.name, result)
            self._log_change(engine.name, result)

    def _log_change(self, engine: str, result: ReconcileResult) -> None:
        is_outside = result.agreement is ReconcileAgreement.OUTSIDE
        if is_outside != self._is_outside.get(engine, False):
            sums = ", ".join(
                f"{comparison.kind} {comparison.ledger} to {comparison.engine}" for comparison in result.kinds
            )
            if is_outside:
                log.error("the ledger and %s differ (%s); see `turntable usage --reconcile`", engine, sums)
            else:
                log.warning("the ledger and %s agree again (%s)", engine, sums)
        self._is_outside[engine] = is_outside
