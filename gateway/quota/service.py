"""Accounting: builds what limits and budgets are made of, and looks after it once a second."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import Engine as Database

from gateway.auth import Period
from gateway.background import Background, Periodic
from gateway.database import AWAY
from gateway.engines.engine import Engine
from gateway.engines.pool import ContextLength
from gateway.metering import Ledger
from gateway.quota import BudgetLeaseStore, Budgets, BudgetStatuses, RateLimiter
from gateway.quota.manager import QuotaManager
from gateway.quota.rate_sharing import LimitSharing

log = logging.getLogger(__name__)
_BEAT_S = 1.0
_LEVELS = ((1.0, "all"), (0.9, "90%"), (0.5, "50%"), (0.0, "less"))


@dataclass(frozen=True)
class QuotaService:
    """Limits and budgets of one gateway; `standings` tells how accounts stand."""

    allowance: QuotaManager
    standings: BudgetStatuses
    bank: BudgetLeaseStore
    sharing: LimitSharing | None
    ledger: Ledger
    uses: Gauge

    @classmethod
    def build(
        cls,
        database: Database,
        ledger: Ledger,
        engines: Sequence[Engine],
        registry: CollectorRegistry,
        background: Background,
    ) -> "QuotaService":
        """Over the gateway's database and ledger, whose journal of earlier runs is folded."""
        bank = BudgetLeaseStore(database, ledger.run)
        bank.forget(ledger.ended_runs)
        budgets, limiter = Budgets(bank, ledger, background.group("budgets")), RateLimiter()
        # One SQLite file has one gateway.
        sharing = None if database.dialect.name == "sqlite" else LimitSharing(database, ledger.run, limiter)
        uses = Gauge(
            "turntable_budgets",
            "Budgets in use on this gateway by period and by how much is spent: less than half, 50%, 90%, all.",
            ("period", "spent"),
            registry=registry,
        )
        allowance = QuotaManager(limiter, budgets, ContextLength(engines).tokens, registry)
        return cls(allowance, BudgetStatuses(bank, budgets, ledger), bank, sharing, ledger, uses)

    def periodic(self) -> Iterator[Periodic]:
        """What is looked after once a second, limits and budgets each for themselves."""
        if self.sharing is not None:
            yield Periodic("limits", _BEAT_S, self.sharing.exchange)
        yield Periodic("budgets", _BEAT_S, self._look_after_budgets)

    def close(self) -> None:
        """Give back what is held, once the ledger is closed; what it could not book stays held for a while."""
        try:
            if not self.ledger.waiting_bytes:
                self.bank.forget([self.ledger.run])
            if self.sharing is not None:
                self.sharing.leave()
        except AWAY as error:
            log.warning("limits and budgets: what is held here lapses by itself, for the database is away (%s)", error)

    async def _look_after_budgets(self) -> None:
        self._show()
        await self.allowance.budgets.beat(is_shared=self.sharing is not None)

    def _show(self) -> None:
        counted = Counter((purse.key.period, _level(purse.use)) for purse in self.allowance.budgets.in_use())
        for period in Period:
            for _, level in _LEVELS:
                self.uses.labels(period.value, level).set(counted[period, level])


def _level(use: float) -> str:
    return next(level for least, level in _LEVELS if use >= least)
