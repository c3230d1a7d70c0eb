"""Budgets at work: a request reserves the most that it may cost in all of its budgets at once, or in none.

In the common case that is a few additions in memory: the gateway holds some money of each budget in use (see `bank`),
and asks for more when that runs short. At its end the request settles at what it really cost.
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
_AT_ONCE = 100
_REFUSED_S = 1.0
"""So long, what the database refused is not asked for again."""
_TRIES = 4


class Budgets:
    """The purses of one gateway."""

    def __init__(
        self, bank: BudgetLeaseStore, ledger: Ledger, visits: TaskSet, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._bank = bank
        self._clock_s = clock_s
        self._exchange = LeaseRenewer(bank, ledger, visits, clock_s)
        self._purses: dict[BudgetKey, BudgetLease] = {}
        self._tidied = 0
        self._known: dict[str, tuple[Account, int, tuple[BudgetLease, ...]]] = {}

    async def reserve(self, accounts: Iterable[Account], at_us: int, nano_usd: int) -> "Reservation":
        """Set aside what a request that came at this moment may cost; raises a `limit_errors` error otherwise."""
        day = at_us // DAY_US
        purses = [purse for account in accounts if account.budgets for purse in self._of(account, day)]
        for _ in range(_TRIES):
            now_s = self._clock_s()
            lacking = [purse for purse in purses if not purse.has(nano_usd, now_s)]
            if not lacking:
                for purse in purses:
                    purse.reserved += nano_usd
                    purse.used_s = now_s
                return Reservation(purses, nano_usd)
            if any(purse.is_frozen for purse in lacking):
                await self._exchange.calm()
                continue
            for purse in lacking:
                if now_s < purse.refused_s + _REFUSED_S:
                    raise _refusal(purse, nano_usd)
            await self._fetch(lacking, nano_usd)
        raise BudgetHeldError(lacking[0].name())

    def refuse_spent(self, accounts: Iterable[Account], at_us: int) -> None:
        """Raise for a budget of nothing, and for one that the database has just said is spent."""
        now_s = self._clock_s()
        for account in accounts:
            if account.budgets:
                for purse in self._of(account, at_us // DAY_US):
                    if not purse.limit or (not purse.left and now_s < purse.refused_s + _REFUSED_S):
                        raise BudgetSpentError(
                            f"Nothing is left of {purse.name()}; have the operator raise the budget."
                        )

    async def renew(self, *, is_shared: bool) -> None:
        """Renew in time what is in use and give back what others ask for; what nobody uses lapses by itself."""
        now_s = self._clock_s()
        wanted = await CRITICAL.run(self._bank.wanted) if is_shared else set()
        used = [purse for purse in self._purses.values() if purse.reserved or now_s - purse.used_s < LEASE_US / 2e6]
        lapsed = [purse for purse in used if purse.reserved and purse.until_s < now_s]
        for some in _batched([purse for purse in self._purses.values() if purse.key in wanted and purse.held] + lapsed):
            await self._exchange.give_back(some)
        for some in _batched([purse for purse in used if now_s < purse.until_s < now_s + LEASE_US / 2e6]):
            await self._exchange.renew(some)
        await self._tidy(now_us() // DAY_US)

    def in_use(self) -> Sequence[BudgetLease]:
        """The purses of budgets that were used here lately."""
        return list(self._purses.values())

    def reserved(self, key: BudgetKey) -> int:
        """What requests that run here have reserved of a budget."""
        purse = self._purses.get(key)
        return 0 if purse is None else purse.reserved

    async def _fetch(self, lacking: Sequence[BudgetLease], nano_usd: int) -> None:
        try:
            await self._exchange.fetch(lacking, nano_usd)
        except SQLAlchemyError as error:
            log.warning("budgets: the database does not answer (%s)", str(error).partition("\n")[0])
            raise BudgetUncheckedError(
                "Budgets cannot be checked, because their database does not answer; try again later.",
                reason="database_away",
                retry_after_s=5,
            ) from error

    def _of(self, account: Account, day: int) -> tuple[BudgetLease, ...]:
        """An account's purses on a day."""
        known = self._known.get(account.id)
        if known is not None and known[1] == day and (known[0] is account or known[0] == account):
            return known[2]
        purses: dict[BudgetKey, BudgetLease] = {}
        for budget in account.budgets:
            key = BudgetKey(account.id, budget.period, first_day(budget.period, day))
            purse = self._purses.get(key)
            if purse is None:
                purse = self._purses[key] = BudgetLease(key, budget.nano_usd, used_s=self._clock_s())
            elif purse.limit != budget.nano_usd:
                purse.limit, purse.until_s, purse.refused_s = budget.nano_usd, 0.0, -1e9  # ask the bank again
            purses[key] = purse
        found = tuple(purses.values())
        self._known[account.id] = (account, day, found)
        return found

    async def _tidy(self, today: int) -> None:
        """Once a day: forget what belonged to periods that are over and to keys that rest."""
        if today == self._tidied:
            return
        self._tidied = today
        await CRITICAL.run(self._bank.sweep)
        now_s = self._clock_s()
        for key, purse in list(self._purses.items()):
            if not purse.reserved and now_s - max(purse.until_s, purse.used_s) > LEASE_US / 1e6:
                del self._purses[key]
                self._known.pop(key.account, None)


def _batched(purses: list[BudgetLease]) -> Iterator[list[BudgetLease]]:
    """A few at a time: while they are looked after, requests of other keys get their turn."""
    return (purses[start : start + _AT_ONCE] for start in range(0, len(purses), _AT_ONCE))


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for one request, until it is settled, once."""

    purses: Sequence[BudgetLease]
    nano_usd: int

    def settle(self, cost_nano_usd: int) -> None:
        """The request has ended and cost so much; call it in the moment in which its row is settled."""
        for purse in self.purses:
            purse.reserved -= self.nano_usd
            purse.spent_here += cost_nano_usd


def _refusal(purse: BudgetLease, nano_usd: int) -> BudgetSpentError | RateLimitError:
    if nano_usd <= purse.left:
        return BudgetHeldError(purse.name())
    return BudgetSpentError(
        f"You have {usd_text(purse.left, 9)} left of {purse.name()}, and this request may cost up to "
        f"{usd_text(nano_usd, 9)}; ask for fewer tokens, or have the operator raise the budget."
    )
