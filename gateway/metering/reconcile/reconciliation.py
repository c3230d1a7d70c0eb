"""Judging runs of engines: all of them when somebody asks, the running ones again and again.

The watch: reads the engines' counters, compares the ledger with them, and says so when they differ.

A reading is judged when the next one is taken: until then the rows of all gateways have come to the database.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Engine as Database
from sqlalchemy import func, select

from gateway.clock import HOUR_US, now_us
from gateway.engines.engine import Engine
from gateway.engines.pool import EnginePool
from gateway.metering import usage_ledger
from gateway.metering.reconcile.engine_counters import EngineCounterReader, EngineCounterStore, EngineRunCounters
from gateway.metering.reconcile.ledger_totals import LedgerTotals, begin_us, ledger_totals, running
from gateway.metering.reconcile.recovery import Recovery
from gateway.metering.reconcile.report import ReconcileGauges
from gateway.metering.reconcile.verdict import Agreement, ReconcileResult, judge
from gateway.threads import REPORTS

_READ_AGAIN_US = HOUR_US


class Reconciliation:
    """Compares the ledger of one database with what engines counted; methods block. `flush` brings rows there."""

    def __init__(self, database: Database, counts: EngineCounterStore, flush: Callable[[], object]) -> None:
        self._database = database
        self._counts = counts
        self._flush = flush
        self._known: dict[str, tuple[int, int, LedgerTotals]] = {}

    def judge_all(self, since_us: int) -> list[ReconcileResult]:
        """Every run of an engine that was seen since then, from all its rows, the newest first."""
        self._flush()
        return [self._judge(run, LedgerTotals(), begin_us(run.first_us)) for run in self._counts.list(since_us)]

    def judge_again(self, run: EngineRunCounters) -> ReconcileResult:
        """The same for a run that goes on: rows read before are not read again for an hour."""
        self._flush()
        began_us, read_until_us, known = self._known.get(run.run, (0, 0, LedgerTotals()))
        if now_us() - began_us > _READ_AGAIN_US:
            began_us, read_until_us, known = now_us(), begin_us(run.first_us), LedgerTotals()
        judgement = self._judge(run, known, read_until_us)
        if not judgement.running:  # all rows opened until then have ended, so their sums are final
            final = replace(judgement.booked, surely=judgement.booked.at_most)
            recent = {name: one for name, one in self._known.items() if now_us() - one[1] < _READ_AGAIN_US}
            self._known = recent | {run.run: (began_us, run.seen_us + 1, final)}
        return judgement

    def unattributed(self, since_us: int) -> int:
        """Interrupted rows that do not say which engine they were on, if they reached one."""
        row = usage_ledger.c
        lost = (row.state == "interrupted", row.engine_run.is_(None), row.opened_us >= since_us)
        with self._database.connect() as connection:
            return int(connection.execute(select(func.count()).where(*lost)).scalar_one())

    def _judge(self, run: EngineRunCounters, known: LedgerTotals, from_us: int) -> ReconcileResult:
        with self._database.connect() as connection:
            open_rows = running(connection, run.run, run.seen_us)
            return judge(
                run, known + ledger_totals(connection, run.run, (from_us, run.seen_us), run.asked_us), open_rows
            )


log = logging.getLogger(__name__)
_LONGEST_WAIT_US = 600 * 10**6


class ReconcileWatch:
    """Compares what the engines say with what the ledger has."""

    def __init__(
        self,
        pool: EnginePool,
        reader: EngineCounterReader,
        counts: EngineCounterStore,
        reconciliation: Reconciliation,
        gauges: ReconcileGauges,
        recovery: Recovery,
    ) -> None:
        self._pool = pool
        self._reader = reader
        self._counts = counts
        self._reconciliation = reconciliation
        self._gauges = gauges
        self._recovery = recovery
        self._waiting: dict[str, EngineRunCounters] = {}
        self._is_outside: dict[str, bool] = {}

    async def look(self) -> None:
        """Read, recover what crashes have cut off, and judge, once."""
        await self.read()
        await self._recovery.run()
        await REPORTS.run(self._judge)

    async def read(self) -> None:
        """Read the counters of all engines that serve."""
        await asyncio.gather(*(self._read(engine) for engine in self._pool.ready))

    async def _read(self, engine: Engine) -> None:
        run = await self._reader.read(engine.name, engine.client)
        if run is not None:
            engine.supervisor.run_id = run

    def _judge(self) -> None:
        newest = {run.run: run for run in self._counts.list()}
        for engine in self._pool.ready:
            run = newest.get(engine.run or "")
            if run is None:
                continue
            waiting = self._waiting.get(engine.name)
            if waiting is None or waiting.run != run.run:
                self._waiting[engine.name] = run
                continue
            judgement = self._reconciliation.judge_again(waiting)
            is_old = run.asked_us - waiting.asked_us > _LONGEST_WAIT_US
            if judgement.agreement is Agreement.RUNNING and not is_old:
                continue  # judged again when what runs has ended
            self._waiting[engine.name] = run
            self._gauges.show(engine.name, judgement)
            self._tell(engine.name, judgement)

    def _tell(self, engine: str, judgement: ReconcileResult) -> None:
        is_outside = judgement.agreement is Agreement.OUTSIDE
        if is_outside != self._is_outside.get(engine, False):
            sums = ", ".join(f"{one.kind} {one.ledger} to {one.engine}" for one in judgement.kinds)
            if is_outside:
                log.error("the ledger and %s differ (%s); see `turntable usage --reconcile`", engine, sums)
            else:
                log.warning("the ledger and %s agree again (%s)", engine, sums)
        self._is_outside[engine] = is_outside
