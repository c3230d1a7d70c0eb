"""The books of one gateway: its ledger summed up, exported, pruned, and held against its engines."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Engine as Database

from adapters.audit import write_entry
from gateway.background import Background, Periodic
from gateway.costs.request_price import RequestPrices
from gateway.engines.engine import Engine
from gateway.inference.pipeline import InferencePipeline
from gateway.metering import Ledger, OwnRequests, now_us
from gateway.metering.export import rows
from gateway.metering.reconcile.engine_counters import EngineCounterReader, EngineCounterStore
from gateway.metering.reconcile.ledger_totals import keep_booked
from gateway.metering.reconcile.reconciliation import ReconcileWatch, Reconciliation
from gateway.metering.reconcile.recovery import Recovery
from gateway.metering.reconcile.report import ReconcileGauges
from gateway.metering.reconcile.verdict import ReconcileResult
from gateway.metering.retention import Retention, TenantErasure
from gateway.metering.usage_summary import UsageSummary
from gateway.metrics import Metrics
from gateway.money import DAY_US
from gateway.settings import Settings

_BEAT_S = 1.0
_PRUNE_S = 3600.0


def _own_requests(ledger: Ledger, engine: Engine, inference: InferencePipeline) -> OwnRequests:
    return OwnRequests(ledger, engine.name, lambda: engine.run, inference.settlement.settle)


class Metering:
    """What belongs to reconciliation, built in one place; has every engine's counters read before its first request."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        ledger: Ledger,
        inference: InferencePipeline,
        summary: UsageSummary,
        metrics: Metrics,
        prices: RequestPrices,
    ) -> None:
        pool = inference.pool
        counts = EngineCounterStore(database, ledger.run)
        reader = EngineCounterReader(counts)
        for engine in pool.engines:
            engine.supervisor.came_up = partial(reader.read, engine.name, engine.client)
            engine.client.book = _own_requests(ledger, engine, inference).book
        self._inference = inference
        self._ledger = ledger
        self._database = database
        self._retention_days = settings.ledger_retention_days
        self.summary = summary
        self.forgetting = TenantErasure(database, ledger.flush)
        self._retention = Retention(database, summary, keep_booked)
        self.reconciliation = Reconciliation(database, counts, ledger.flush)
        self.watch = ReconcileWatch(
            pool,
            reader,
            counts,
            self.reconciliation,
            ReconcileGauges(metrics.registry),
            Recovery(database, pool, ledger.gateway, prices),
        )
        self._reconcile_every_s = settings.reconcile_every_s

    def periodic(self, background: Background) -> Iterator[Periodic]:
        """Say that this gateway lives, keep what long requests have used so far, compare with the engines, prune."""
        yield Periodic("progress", _BEAT_S, self._note_progress)
        yield Periodic("ledger", _BEAT_S, background.blocking(self._ledger.beat))
        if self._reconcile_every_s:
            yield Periodic("reconcile", self._reconcile_every_s, self.watch.look)
        if self._retention_days:
            yield Periodic("retention", _PRUNE_S, background.blocking(self._prune_old))

    async def close(self) -> None:
        """Return once every row is settled."""
        await self._inference.settlement.close()

    async def judge(self, since_us: int) -> tuple[list[ReconcileResult], int]:
        """Ask the engines now, and judge every run that was seen since then; with interrupted rows of no known run."""
        await self.watch.read()
        judgements = await asyncio.to_thread(self.reconciliation.judge_all, since_us)
        return judgements, await asyncio.to_thread(self.reconciliation.unattributed, since_us)

    def rows(self, since_us: int, until_us: int, tenant: str | None) -> Iterator[list[dict[str, Any]]]:
        """Pages of the ledger's rows; blocks between them."""
        self._ledger.flush()
        return rows(self._database, since_us, until_us, tenant)

    def prune(self, before_us: int, *, actor: str) -> int:
        """Delete rows before a moment, their sums kept; returns how many. On the audit log when there were any."""
        self._ledger.flush()
        deleted = self._retention.prune(before_us)
        if deleted:
            with self._database.begin() as connection:
                before = datetime.fromtimestamp(before_us // 10**6, UTC).isoformat()
                write_entry(connection, actor, "prune", "usage", {"before": before, "rows": deleted})
        return deleted

    def _prune_old(self) -> None:
        self.prune(now_us() - self._retention_days * DAY_US, actor="retention")

    async def _note_progress(self) -> None:
        self._inference.settlement.note_progress()
