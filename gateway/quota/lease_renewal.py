"""The exchange: brings the purses of this gateway to the bank, many at a time, and what it says back into them."""

import asyncio
import time
from collections.abc import Callable, Sequence

from gateway.background import TaskSet
from gateway.metering import Ledger
from gateway.quota.budget_leases import LEASE_US, BudgetLease, BudgetLeaseStore, LeaseGrant, LeaseRequest
from gateway.threads import CRITICAL

_MARGIN_S = 5.0
_FLUSH_S = 2.0


class LeaseRenewer:
    """One visit to the bank at a time; who comes meanwhile shares the next one."""

    def __init__(
        self, bank: BudgetLeaseStore, ledger: Ledger, visits: TaskSet, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._bank = bank
        self._ledger = ledger
        self._visits = visits
        self._clock_s = clock_s
        self._lock = asyncio.Lock()
        self._waiting: dict[int, tuple[BudgetLease, int]] = {}
        self._next: asyncio.Task[None] | None = None

    async def fetch(self, purses: Sequence[BudgetLease], nano_usd: int) -> None:
        """Have the bank asked for so much more for each of the purses; raises `SQLAlchemyError` when it is away."""
        for purse in purses:
            self._waiting[id(purse)] = (purse, self._waiting.get(id(purse), (purse, 0))[1] + nano_usd)
        if self._next is None:
            self._next = self._visits.start(self._fetch_for_all())
        await asyncio.shield(self._next)  # a client that leaves does not end what others wait for

    async def calm(self) -> None:
        """Return once no visit is under way."""
        async with self._lock:
            pass

    async def give_back(self, purses: Sequence[BudgetLease]) -> None:
        """Keep only what runs, and what may not be booked yet."""
        await asyncio.shield(self._visits.start(self._visit([(purse, 0) for purse in purses], keep=False)))

    async def renew(self, purses: Sequence[BudgetLease]) -> None:
        """Keep what is held for another while."""
        await asyncio.shield(self._visits.start(self._visit([(purse, 0) for purse in purses], keep=True)))

    async def _fetch_for_all(self) -> None:
        async with self._lock:
            self._next = None
            waiting, self._waiting = list(self._waiting.values()), {}
            await self._exchange(waiting, keep=False)

    async def _visit(self, wanted: Sequence[tuple[BudgetLease, int]], *, keep: bool) -> None:
        async with self._lock:
            await self._exchange(wanted, keep=keep)

    async def _exchange(self, wanted: Sequence[tuple[BudgetLease, int]], *, keep: bool) -> None:
        began_s = self._clock_s()
        parts = [_Part(purse, want, keep=keep) for purse, want in wanted]
        parts.sort(key=lambda part: part.purse.key)
        for part in parts:
            part.purse.is_frozen = not keep
        self._ledger.retry()  # what these parts have spent is in the journal now, unless its disk is full
        is_written = not self._ledger.unsettled
        try:
            is_booked, holdings = await CRITICAL.run(self._ask, parts, is_written)
        finally:
            for part in parts:
                part.purse.is_frozen = False
        for part, holding in zip(parts, holdings, strict=True):
            part.take_in(holding, began_s, is_booked=is_booked)

    def _ask(self, parts: "Sequence[_Part]", is_written: bool) -> tuple[bool, list[LeaseGrant]]:
        is_booked = is_written and self._ledger.flush(_FLUSH_S)
        return is_booked, self._bank.exchange([part.claim(is_booked=is_booked) for part in parts])


class _Part:
    """One purse's part in an exchange, as it stood when that began.

    What was spent then is in the ledger's journal, so after a flush it is booked: it need not be held any more. Until
    the exchange is through, that money counts twice, as spent and as held, and never not at all.
    """

    __slots__ = ("_floor", "_spent", "_want", "purse")

    def __init__(self, purse: BudgetLease, want: int, *, keep: bool) -> None:
        self.purse = purse
        self._want = want
        self._spent = purse.spent_here
        self._floor = max(purse.held if keep else 0, purse.reserved + purse.spent_here)

    def claim(self, *, is_booked: bool) -> LeaseRequest:
        """What to ask the bank."""
        floor = self._floor - (self._spent if is_booked else 0)
        return LeaseRequest(self.purse.key, self.purse.limit, floor, self._want)

    def take_in(self, holding: LeaseGrant, began_s: float, *, is_booked: bool) -> None:
        """Put what the bank said into the purse."""
        purse = self.purse
        purse.held, purse.spent = holding.nano_usd, holding.spent
        purse.spent_here -= self._spent if is_booked else 0
        purse.until_s = began_s + LEASE_US / 1e6 - _MARGIN_S
        if purse.held - purse.reserved - purse.spent_here < self._want:
            purse.refused_s = began_s
