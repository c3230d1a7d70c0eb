"""Budgets: reserve the most that a request may cost in all of its budgets at once, or in none.

Usually that is a few additions in memory: the gateway holds a lease on each budget in use (`budget_leases`) and asks
for more when it runs short. When the request ends, the reservation settles at the real cost.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from gateway.auth import Account
from gateway.background import TaskSet
from gateway.clock import DAY_US, now_us
from gateway.metering import Ledger
from gateway.money import usd_text
from gateway.quota.budget_leases import LEASE_US, BudgetKey, BudgetLease, BudgetLeaseStore, first_day
from gateway.quota.errors import BudgetHeldError, BudgetSpentError, BudgetUncheckedError, RateLimitError
from gateway.quota.lease_renewal import LeaseRenewer
from gateway.threads import CRITICAL

log = logging.getLogger(__name__)
_BATCH_SIZE = 100
_REFUSED_S = 1.0
"""How long a budget that was refused is not requested again."""
_MAX_ATTEMPTS = 4


class Budgets:
    """Reserves and settles amounts on the budget leases of this gateway."""

    def __init__(
        self, store: BudgetLeaseStore, ledger: Ledger, tasks: TaskSet, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._clock_s = clock_s
        self._renewer = LeaseRenewer(store, ledger, tasks, clock_s)
        self._leases: dict[BudgetKey, BudgetLease] = {}
        self._tidied = 0
        self._known: dict[str, tuple[Account, int, tuple[BudgetLease, ...]]] = {}

    async def reserve(self, accounts: Iterable[Account], at_us: int, nano_usd: int) -> "Reservation":
        """Reserve the most that a request may cost in all its budgets; raises an error of `gateway.quota.errors`."""
        day = at_us // DAY_US
        leases = [lease for account in accounts if account.budgets for lease in self._of(account, day)]
        for _ in range(_MAX_ATTEMPTS):
            now_s = self._clock_s()
            lacking = [lease for lease in leases if not lease.has(nano_usd, now_s)]
            if not lacking:
                for lease in leases:
                    lease.reserved += nano_usd
                    lease.used_s = now_s
                return Reservation(leases, nano_usd)
            if any(lease.is_frozen for lease in lacking):
                await self._renewer.wait_for_batch()
                continue
            for lease in lacking:
                if now_s < lease.refused_s + _REFUSED_S:
                    raise _refusal(lease, nano_usd)
            await self._fetch(lacking, nano_usd)
        raise BudgetHeldError(lacking[0].name())

    def refuse_spent(self, accounts: Iterable[Account], at_us: int) -> None:
        """Raise `BudgetSpentError` for a budget of 0, and for one that was found spent a moment ago."""
        now_s = self._clock_s()
        for account in accounts:
            if account.budgets:
                for lease in self._of(account, at_us // DAY_US):
                    if not lease.limit or (not lease.left and now_s < lease.refused_s + _REFUSED_S):
                        raise BudgetSpentError(
                            f"Nothing is left of {lease.name()}; ask the operator to raise the budget."
                        )

    def check_reserved(self, accounts: Iterable[Account], at_us: int, nano_usd: int) -> None:
        """Raise `BudgetSpentError` when a budget was lowered below, or is overdrawn beyond, a request's reservation."""
        for account in accounts:
            if account.budgets:
                for lease in self._of(account, at_us // DAY_US):
                    if not lease.limit or lease.left < nano_usd:
                        raise _spent(lease, nano_usd)

    async def renew(self, *, is_shared: bool) -> None:
        """Renew leases in use, shrink those that other gateways want; unused ones expire. A periodic task."""
        now_s = self._clock_s()
        wanted = await CRITICAL.run(self._store.wanted) if is_shared else set()
        used = [lease for lease in self._leases.values() if lease.reserved or now_s - lease.used_s < LEASE_US / 2e6]
        lapsed = [lease for lease in used if lease.reserved and lease.until_s < now_s]
        for batch in _batched(
            [lease for lease in self._leases.values() if lease.key in wanted and lease.held] + lapsed
        ):
            await self._renewer.shrink(batch)
        for batch in _batched([lease for lease in used if now_s < lease.until_s < now_s + LEASE_US / 2e6]):
            await self._renewer.renew(batch)
        await self._tidy(now_us() // DAY_US)

    def in_use(self) -> Sequence[BudgetLease]:
        """Return the leases of budgets that this gateway has used lately."""
        return list(self._leases.values())

    def reserved(self, key: BudgetKey) -> int:
        """Return the amount of a budget reserved by requests that run here, in nano-USD."""
        lease = self._leases.get(key)
        return 0 if lease is None else lease.reserved

    async def _fetch(self, lacking: Sequence[BudgetLease], nano_usd: int) -> None:
        try:
            await self._renewer.fetch(lacking, nano_usd)
        except SQLAlchemyError as error:
            log.warning("budgets: the database does not answer (%s)", str(error).partition("\n")[0])
            raise BudgetUncheckedError(
                "Budgets cannot be checked, because the gateway's database does not answer; try again later.",
                reason="database_away",
                retry_after_s=5,
            ) from error

    def _of(self, account: Account, day: int) -> tuple[BudgetLease, ...]:
        """Return an account's leases for the periods that contain a day."""
        known = self._known.get(account.id)
        if known is not None and known[1] == day and (known[0] is account or known[0] == account):
            return known[2]
        leases: dict[BudgetKey, BudgetLease] = {}
        for budget in account.budgets:
            key = BudgetKey(account.id, budget.period, first_day(budget.period, day))
            lease = self._leases.get(key)
            if lease is None:
                lease = self._leases[key] = BudgetLease(key, budget.nano_usd, used_s=self._clock_s())
            elif lease.limit != budget.nano_usd:
                lease.limit, lease.until_s, lease.refused_s = budget.nano_usd, 0.0, -1e9  # ask the store again
            leases[key] = lease
        found = tuple(leases.values())
        self._known[account.id] = (account, day, found)
        return found

    async def _tidy(self, today: int) -> None:
        """Once a day, drop expired leases: of past periods and of unused keys."""
        if today == self._tidied:
            return
        self._tidied = today
        await CRITICAL.run(self._store.sweep)
        now_s = self._clock_s()
        for key, lease in list(self._leases.items()):
            if not lease.reserved and now_s - max(lease.until_s, lease.used_s) > LEASE_US / 1e6:
                del self._leases[key]
                self._known.pop(key.account, None)


def _batched(leases: list[BudgetLease]) -> Iterator[list[BudgetLease]]:
    """Split leases into batches, so that requests of other keys get their leases in between."""
    return (leases[start : start + _BATCH_SIZE] for start in range(0, len(leases), _BATCH_SIZE))


@dataclass(frozen=True, slots=True)
class Reservation:
    """Amount reserved for one request in all its budgets; `settle` must follow once."""

    leases: Sequence[BudgetLease]
    nano_usd: int

    def settle(self, cost_nano_usd: int) -> None:
        """Replace the reservation by the request's cost; call it together with settling the ledger row."""
        for lease in self.leases:
            lease.reserved -= self.nano_usd
            lease.spent_here += cost_nano_usd


def _refusal(lease: BudgetLease, nano_usd: int) -> BudgetSpentError | RateLimitError:
    if nano_usd <= lease.left:
        return BudgetHeldError(lease.name())
    return _spent(lease, nano_usd)


def _spent(lease: BudgetLease, nano_usd: int) -> BudgetSpentError:
    return BudgetSpentError(
        f"You have {usd_text(lease.left, 9)} left of {lease.name()}, and this request may cost up to "
        f"{usd_text(nano_usd, 9)}; ask for fewer tokens, or ask the operator to raise the budget."
    )
