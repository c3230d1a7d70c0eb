"""Budget status: spent, reserved and remaining amounts of each budget of an account, for the admin API."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.auth import Account, Period
from gateway.clock import DAY_US, now_us
from gateway.metering import Ledger
from gateway.money import usd_exact
from gateway.quota.budget_leases import BudgetKey, BudgetLeaseStore, first_day, renews_at
from gateway.quota.budgets import Budgets


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """Current state of a budget, in nano-USD; `reserved` is for requests that run on this gateway."""

    period: Period
    budget: int
    spent: int
    reserved: int
    renews_at: datetime | None

    @property
    def left(self) -> int:
        """Remaining amount after spent and reserved; never below 0."""
        return max(0, self.budget - self.spent - self.reserved)

    def document(self) -> dict[str, Any]:
        """Return the status as JSON, in USD."""
        return {
            "period": self.period.value,
            "budget_usd": usd_exact(self.budget),
            "spent_usd": usd_exact(self.spent),
            "reserved_usd": usd_exact(self.reserved),
            "left_usd": usd_exact(self.left),
            "renews_at": None if self.renews_at is None else self.renews_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


class BudgetStatuses:
    """Computes the budget statuses of accounts; methods block."""

    def __init__(self, store: BudgetLeaseStore, budgets: Budgets, ledger: Ledger) -> None:
        self._store = store
        self._budgets = budgets
        self._ledger = ledger

    def documents(self, account: Account) -> list[dict[str, Any]]:
        """Return the statuses of an account's budgets as JSON."""
        return [status.document() for status in self.of(account)]

    def of(self, account: Account) -> list[BudgetStatus]:
        """Return a status for each budget of the account, with all requests that have ended."""
        self._ledger.flush()
        day = now_us() // DAY_US
        statuses = []
        for budget in account.budgets:
            key = BudgetKey(account.id, budget.period, first_day(budget.period, day))
            spent, reserved = self._store.spent(key), self._budgets.reserved(key)
            renewed = renews_at(budget.period, key.first_day)
            statuses.append(BudgetStatus(budget.period, budget.nano_usd, spent, reserved, renewed))
        return statuses
