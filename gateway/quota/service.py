"""Quota service: the parts of rate limits and budgets of one gateway, their upkeep, and their release at shutdown."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import Engine as Database

from gateway.auth import Period
from gateway.background import Background
from gateway.database import AWAY
from gateway.engines.engine import Engine
from gateway.engines.pool import ContextLength
from gateway.metering import Ledger
from gateway.quota import BudgetLeaseStore, Budgets, BudgetStatuses, RateLimiter
from gateway.quota.manager import QuotaManager
from gateway.quota.rate_sharing import LimitSharing

log = logging.getLogger(__name__)
_USE_LEVELS = ((1.0, "all"), (0.9, "90%"), (0.5, "50%"), (0.0, "less"))


@dataclass(frozen=True, kw_only=True)
class QuotaService:
    """Rate limits and budgets of one gateway; `sharing` is None where no other gateway uses the database."""

    manager: QuotaManager
    statuses: BudgetStatuses
    leases: BudgetLeaseStore
    sharing: LimitSharing | None
    ledger: Ledger
    gauge: Gauge

    async def renew_budgets(self) -> None:
        """Renew budget leases in use, give back those that other gateways need, and set the gauges; a periodic task."""
        counted = Counter((lease.key.period, _level(lease.use)) for lease in self.manager.budgets.in_use())
        for period in Period:
            for _, level in _USE_LEVELS:
                self.gauge.labels(period.value, level).set(counted[period, level])
        await self.manager.budgets.renew(is_shared=self.sharing is not None)

    def close(self) -> None:
        """Give back all budget leases after the ledger was closed; blocks.

        Leases with spending that is not booked yet are left to expire.
        """
        try:
            if not self.ledger.waiting_bytes:
                self.leases.release([self.ledger.run])
            if self.sharing is not None:
                self.sharing.leave()
        except AWAY as error:
            log.warning("quota: the database is unreachable; budget leases of this gateway will expire (%s)", error)


def build_quota(
    database: Database,
    ledger: Ledger,
    engines: Sequence[Engine],
    registry: CollectorRegistry,
    background: Background,
) -> QuotaService:
    """Build the service over a ledger that has folded the journals of earlier runs."""
    leases, limiter = BudgetLeaseStore(database, ledger.run), RateLimiter()
    leases.release(ledger.ended_runs)
    budgets = Budgets(leases, ledger, background.group("budgets"))
    # An SQLite file has one gateway.
    sharing = None if database.dialect.name == "sqlite" else LimitSharing(database, ledger.run, limiter)
    gauge = Gauge(
        "turntable_budgets",
        "Budgets in use on this gateway by period and by how much is spent: less than half, 50%, 90%, all.",
        ("period", "spent"),
        registry=registry,
    )
    return QuotaService(
        manager=QuotaManager(limiter, budgets, ContextLength(engines).tokens, registry),
        statuses=BudgetStatuses(leases, budgets, ledger),
        leases=leases,
        sharing=sharing,
        ledger=ledger,
        gauge=gauge,
    )


def _level(use: float) -> str:
    return next(level for least, level in _USE_LEVELS if use >= least)
