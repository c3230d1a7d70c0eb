"""Renewal of budget leases: batches this gateway's lease requests, and applies the grants."""

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
    """Exchanges lease requests with the database in batches, one at a time; later requests share the next batch."""

    def __init__(
        self, store: BudgetLeaseStore, ledger: Ledger, tasks: TaskSet, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._tasks = tasks
        self._clock_s = clock_s
        self._lock = asyncio.Lock()
        self._waiting: dict[int, tuple[BudgetLease, int]] = {}
        self._next: asyncio.Task[None] | None = None

    async def fetch(self, leases: Sequence[BudgetLease], nano_usd: int) -> None:
        """Ask the database for `nano_usd` more on each lease; raises `SQLAlchemyError` when it is unreachable."""
        for lease in leases:
            self._waiting[id(lease)] = (lease, self._waiting.get(id(lease), (lease, 0))[1] + nano_usd)
        if self._next is None:
            self._next = self._tasks.start(self._fetch_for_all())
        await asyncio.shield(self._next)  # a client that disconnects must not cancel the batch of others

    async def wait_for_batch(self) -> None:
        """Wait for the end of the running batch."""
        async with self._lock:
            pass

    async def shrink(self, leases: Sequence[BudgetLease]) -> None:
        """Shrink leases to the amounts of running requests and of those not in the database yet."""
        await asyncio.shield(self._tasks.start(self._exchange_alone([(lease, 0) for lease in leases], keep=False)))

    async def renew(self, leases: Sequence[BudgetLease]) -> None:
        """Renew leases at their current amount."""
        await asyncio.shield(self._tasks.start(self._exchange_alone([(lease, 0) for lease in leases], keep=True)))

    async def _fetch_for_all(self) -> None:
        async with self._lock:
            self._next = None
            waiting, self._waiting = list(self._waiting.values()), {}
            await self._exchange(waiting, keep=False)

    async def _exchange_alone(self, wanted: Sequence[tuple[BudgetLease, int]], *, keep: bool) -> None:
        async with self._lock:
            await self._exchange(wanted, keep=keep)

    async def _exchange(self, wanted: Sequence[tuple[BudgetLease, int]], *, keep: bool) -> None:
        began_s = self._clock_s()
        parts = [_LeaseExchange(lease, want, keep=keep) for lease, want in wanted]
        parts.sort(key=lambda part: part.lease.key)
        try:
            for part in parts:
                part.lease.is_frozen = not keep
            self._ledger.retry()  # settled rows are in the journal now, unless its disk is full
            is_written = not self._ledger.unsettled
            is_booked, grants = await CRITICAL.run(self._ask, parts, is_written)
        finally:
            for part in parts:
                part.lease.is_frozen = False
        for part, grant in zip(parts, grants, strict=True):
            part.apply(grant, began_s, is_booked=is_booked)

    def _ask(self, parts: "Sequence[_LeaseExchange]", is_written: bool) -> tuple[bool, list[LeaseGrant]]:
        is_booked = is_written and self._ledger.flush(_FLUSH_S)
        return is_booked, self._store.grant([part.request(is_booked=is_booked) for part in parts])


class _LeaseExchange:
    """The part of one lease in a batch, with its amounts when the batch began.

    Amounts spent by then are in the ledger's journal, so after a flush they are in the database and leave the lease.
    Until the batch is done they count twice, as spent and as leased, but never not at all.
    """

    __slots__ = ("_floor", "_spent", "_want", "lease")

    def __init__(self, lease: BudgetLease, want: int, *, keep: bool) -> None:
        self.lease = lease
        self._want = want
        self._spent = lease.spent_here
        self._floor = max(lease.held if keep else 0, lease.reserved + lease.spent_here)

    def request(self, *, is_booked: bool) -> LeaseRequest:
        """Return the request for the database."""
        floor = self._floor - (self._spent if is_booked else 0)
        return LeaseRequest(self.lease.key, self.lease.limit, floor, self._want)

    def apply(self, grant: LeaseGrant, began_s: float, *, is_booked: bool) -> None:
        """Apply a grant to the lease."""
        lease = self.lease
        lease.held, lease.spent = grant.nano_usd, grant.spent
        lease.spent_here -= self._spent if is_booked else 0
        lease.until_s = began_s + LEASE_US / 1e6 - _MARGIN_S
        if lease.held - lease.reserved - lease.spent_here < self._want:
            lease.refused_s = began_s
