"""Admission control: a bound on concurrent requests, a queue with a deadline, and a `retry-after` that the rate backs.

A request that is refused here has consumed nothing: no ledger row, no adapter, no engine.
"""

import asyncio
import math
import time
from collections import deque

from gateway.errors import OverloadedError

_RATE_WINDOW = 64
_MAX_RETRY_AFTER_S = 60


class Admission:
    """Let `slots` requests run at a time; up to `max_waiting` more wait in order, each for at most `max_wait_s`."""

    def __init__(self, slots: int, *, max_waiting: int, max_wait_s: float) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._released_s: deque[float] = deque(maxlen=_RATE_WINDOW)
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._waiters)

    @property
    def is_quiet(self) -> bool:
        """Whether at least half of the slots are free: room for work that can be dropped."""
        return not self._waiters and 2 * self.running < self._slots

    async def acquire(self) -> float:
        """Take a slot; returns the seconds waited. `release` must follow, also after a cancellation later on.

        Raises `OverloadedError` when the queue is full or the wait takes too long.
        """
        if self.running < self._slots:
            self.running += 1
            return 0.0
        started_s = time.monotonic()
        await self._wait()
        return time.monotonic() - started_s

    def release(self) -> None:
        """Give a slot back: the next request in the queue gets it."""
        self._released_s.append(time.monotonic())
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)  # `running` stays: the slot changes hands
                return
        self.running -= 1

    async def _wait(self) -> None:
        if len(self._waiters) >= self._max_waiting:
            raise self._overloaded("the queue is full")
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._max_wait_s):
                await waiter
        except (TimeoutError, asyncio.CancelledError) as error:
            if waiter.done() and not waiter.cancelled():
                self.release()  # the slot came in the very moment in which the wait ended
            elif waiter in self._waiters:  # not when `release` came by after the cancellation and before this task
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise self._overloaded(f"none came free within {self._max_wait_s:g} s") from None
            raise

    def _overloaded(self, why: str) -> OverloadedError:
        return OverloadedError(
            f"All {self._slots} slots are taken and {why}; try again later.", retry_after_s=self.retry_after_s()
        )

    def retry_after_s(self) -> int:
        """Seconds until the present queue has drained at the rate of the latest requests."""
        if len(self._released_s) < 2:
            return 1
        rate_per_s = (len(self._released_s) - 1) / max(1e-3, time.monotonic() - self._released_s[0])
        return min(_MAX_RETRY_AFTER_S, max(1, math.ceil((len(self._waiters) + 1) / rate_per_s)))
