"""The watch: reads the engines' counters, compares the ledger with them, and says so when they differ.

A reading is judged when the next one is taken: until then the rows of all gateways have come to the database.
"""

import asyncio
import logging

from gateway.engine.engine import Engine
from gateway.engine.pool import EnginePool
from gateway.reconcile.counts import EngineCounts, Run
from gateway.reconcile.gauges import ReconcileGauges
from gateway.reconcile.reader import CountsReader
from gateway.reconcile.reconciliation import Reconciliation
from gateway.reconcile.recovery import Recovery
from gateway.reconcile.verdict import Agreement, Judgement

log = logging.getLogger(__name__)
_LONGEST_WAIT_US = 600 * 10**6


class ReconcileWatch:
    """Compares what the engines say with what the ledger has."""

    def __init__(
        self,
        pool: EnginePool,
        reader: CountsReader,
        counts: EngineCounts,
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
        self._waiting: dict[str, Run] = {}
        self._is_outside: dict[str, bool] = {}

    async def look(self) -> None:
        """Read, recover what crashes have cut off, and judge, once."""
        await self.read()
        await self._recovery.run()
        await asyncio.to_thread(self._judge)

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

    def _tell(self, engine: str, judgement: Judgement) -> None:
        is_outside = judgement.agreement is Agreement.OUTSIDE
        if is_outside != self._is_outside.get(engine, False):
            sums = ", ".join(f"{one.kind} {one.ledger} to {one.engine}" for one in judgement.kinds)
            if is_outside:
                log.error("the ledger and %s differ (%s); see `turntable usage --reconcile`", engine, sums)
            else:
                log.warning("the ledger and %s agree again (%s)", engine, sums)
        self._is_outside[engine] = is_outside
