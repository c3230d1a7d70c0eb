"""The metering service of one gateway: usage sums, export, pruning, erasure and reconciliation, and their upkeep."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine as Database

from adapters.audit import write_entry
from gateway.clock import DAY_US, iso, now_us
from gateway.metering import Ledger
from gateway.metering.export import ledger_pages
from gateway.metering.reconcile.reconciliation import ReconcileMonitor, Reconciliation
from gateway.metering.reconcile.verdict import ReconcileResult
from gateway.metering.retention import Retention, TenantErasure
from gateway.metering.usage_summary import UsageSummary
from gateway.threads import REPORTS


class Metering:
    """Reads, prunes, erases and reconciles the ledger."""

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
        retention_days: int,
    ) -> None:
        self.summary = summary
        self.erasure = erasure
        self._database = database
        self._ledger = ledger
        self._retention = retention
        self._reconciliation = reconciliation
        self._monitor = monitor
        self._retention_days = retention_days

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

    def prune_old(self) -> None:
        """Delete rows that are older than the retention; blocks."""
        self.prune(now_us() - self._retention_days * DAY_US, actor="retention")
