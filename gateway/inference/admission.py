"""Admission: so many requests at a time, a queue with a deadline behind them, and an honest `retry-after` beyond.

What is turned away has consumed nothing: no ledger row, no adapter, no engine.
"""

import asyncio
import math
import time
from collections import deque

from gateway.errors import OverloadedError

_RATE_WINDOW = 64
_LONGEST_RETRY_S = 60


class Admission:
    """`slots` requests run at a time; up to `max_waiting` more wait, each for `max_wait_s` at most."""

    def __init__(self, slots: int, *, max_waiting: int, max_wait_s: float) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ended_s: deque[float] = deque(maxlen=_RATE_WINDOW)
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._waiting)

    @property
    def is_quiet(self) -> bool:
        """Whether at least half of the slots are free: time for work that nobody waits for."""
        return not self._waiting and 2 * self.running < self._slots

    def slot(self) -> "Slot":
        """A slot to hold by entering it."""
        return Slot(self)

    async def take(self) -> float:
        """Take a slot; returns how many seconds that took. Raises `OverloadedError` when the queue is full or slow."""
        if self.running < self._slots:
            self.running += 1
            return 0.0
        asked_s = time.monotonic()
        await self._wait()
        return time.monotonic() - asked_s

    def give_back(self) -> None:
        """A slot is free again: the next in line gets it."""
        self._ended_s.append(time.monotonic())
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the slot goes to the next in line; `running` stays
                return
        self.running -= 1

    async def _wait(self) -> None:
        if len(self._waiting) >= self._max_waiting:
            raise self._overloaded("the queue is full")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._max_wait_s):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                self.give_back()  # the turn came in the very moment in which the wait ended
            else:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._overloaded(f"none came free within {self._max_wait_s:g} s") from None
            raise

    def _overloaded(self, why: str) -> OverloadedError:
        return OverloadedError(
            f"All {self._slots} slots are taken and {why}; try again later.", retry_after_s=self.retry_after_s()
        )

    def retry_after_s(self) -> int:
        """Seconds until the present queue has drained at the rate of the latest requests."""
        if len(self._ended_s) < 2:
            return 1
        rate_per_s = (len(self._ended_s) - 1) / max(1e-3, time.monotonic() - self._ended_s[0])
        return min(_LONGEST_RETRY_S, max(1, math.ceil((len(self._waiting) + 1) / rate_per_s)))


class Slot:
    """A slot, held while the context is open; entering it tells how many seconds were waited."""

    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def __aenter__(self) -> float:
        return await self._admission.take()

    async def __aexit__(self, *_: object) -> None:
        self._admission.give_back()
