"""The metering service of one gateway: usage sums, export, pruning, erasure and reconciliation, and their upkeep."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from sqlalchemy import Engine as Database

from adapters.audit import write_entry
from gateway.background import Background, Periodic
from gateway.clock import DAY_US, iso, now_us
from gateway.metering import Ledger
from gateway.metering.export import ledger_pages
from gateway.metering.reconcile.reconciliation import ReconcileMonitor, Reconciliation
from gateway.metering.reconcile.verdict import ReconcileResult
from gateway.metering.retention import Retention, TenantErasure
from gateway.metering.usage_summary import UsageSummary
from gateway.threads import REPORTS

_HEARTBEAT_S = 1.0
_PRUNE_S = 3600.0


class Metering:
    """Reads and keeps up the ledger.

    `note_progress` writes the usage so far of running requests, `settle_all` returns once every row is settled;
    reconciliation and retention are off with 0 seconds or days.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        summary: UsageSummary,
        retention: Retention,
        erasure: TenantErasure,
        reconciliation: Reconciliation,
        monitor: ReconcileMonitor,
        note_progress: Callable[[], object],
        settle_all: Callable[[], Awaitable[None]],
        retention_days: int,
        reconcile_every_s: float,
    ) -> None:
        self.summary = summary
        self.erasure = erasure
        self._database = database
        self._ledger = ledger
        self._retention = retention
        self._reconciliation = reconciliation
        self._monitor = monitor
        self._note_progress = note_progress
        self._settle_all = settle_all
        self._retention_days = retention_days
        self._reconcile_every_s = reconcile_every_s

    def periodic(self, background: Background) -> Iterator[Periodic]:
        """Yield the periodic tasks: progress of long requests, heartbeat, reconciliation, retention."""
        yield Periodic("progress", _HEARTBEAT_S, self._write_progress)
        yield Periodic("ledger", _HEARTBEAT_S, background.blocking(self._ledger.heartbeat))
        if self._reconcile_every_s:
            yield Periodic("reconcile", self._reconcile_every_s, self._monitor.run)
        if self._retention_days:
            yield Periodic("retention", _PRUNE_S, background.blocking(self._prune_old))

    async def close(self) -> None:
        """Return once every row is settled."""
        await self._settle_all()

    async def reconcile(self, since_us: int) -> tuple[list[ReconcileResult], int]:
        """Read the engines' counters now and reconcile every run read since then.

        Also returns the number of interrupted rows of no known run.
        """
        await self._monitor.read_counters()
        results = await REPORTS.run(self._reconciliation.reconcile_all, since_us)
        return results, await REPORTS.run(self._reconciliation.unattributed, since_us)

    def pages(self, since_us: int, until_us: int, tenant: str | None) -> Iterator[list[dict[str, Any]]]:
        """Yield pages of the ledger's rows; blocks between them."""
        self._ledger.flush()
        return ledger_pages(self._database, since_us, until_us, tenant)

    def prune(self, before_us: int, *, actor: str) -> int:
        """Delete rows before a time, their sums kept, and write it to the audit log; returns how many. Blocks."""
        self._ledger.flush()
        deleted = self._retention.prune(before_us)
        if deleted:
            with self._database.begin() as connection:
                before = iso(before_us, "seconds")
                write_entry(connection, actor, "prune", "usage", {"before": before, "rows": deleted})
        return deleted

    def _prune_old(self) -> None:
        self.prune(now_us() - self._retention_days * DAY_US, actor="retention")

    async def _write_progress(self) -> None:
        self._note_progress()
