"""Turns: when more adapters are asked for than an engine has slots, which of them run and which wait.

vLLM lets a request wait while its batch holds as many adapters as there are slots, and never ends a turn: adapters that
always have a request running keep their slots, and the others starve. Here as many adapters run as there are slots, all
requests of an adapter that gets its turn start together, and once somebody has waited longer than `patience_s` the
adapter whose turn began first lets no new request in, runs dry, and gives its slot away.
"""

import asyncio
import time
from collections.abc import Callable


class SlotScheduler:
    """The adapters that run in one engine, and those that wait, by their engine names."""

    def __init__(self, *, patience_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots = 0
        """How many adapters may run; 0 while nobody knows, then all may."""
        self._patience_s = patience_s
        self._clock = clock
        self._running: dict[str, int] = {}
        """Requests by adapter; the adapter whose turn began first stands first."""
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        """By adapter; the one that has waited longest stands first."""
        self._asked_s: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many requests wait for their adapter's turn."""
        return sum(map(len, self._waiting.values()))

    def turn(self, name: str) -> "ScheduledSlot":
        """A turn for one request, held while the context is entered."""
        return ScheduledSlot(self, name)

    async def enter(self, name: str) -> None:
        """Return when a request of an adapter may start; each that has started calls `leave` at its end."""
        if self._may_start(name):
            self._running[name] = self._running.get(name, 0) + 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(turn)
        self._asked_s.setdefault(name, self._clock())
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(name)  # the turn came in the very moment in which the wait ended
            else:
                self._give_up(name, turn)
            raise

    def leave(self, name: str) -> None:
        """A request has ended."""
        self._running[name] -= 1
        if not self._running[name]:
            del self._running[name]
        if self._waiting:
            self._schedule_next()

    def _may_start(self, name: str) -> bool:
        if not self._waiting:
            return name in self._running or len(self._running) < self.slots or not self.slots
        eldest_s = next(iter(self._asked_s.values()))
        if name not in self._running or name in self._waiting:
            return False
        return name != next(iter(self._running)) or self._clock() - eldest_s < self._patience_s

    def _schedule_next(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            if name not in self._running and len(self._running) >= self.slots > 0:
                return
            # A turn that was cancelled stands here until its own task has run.
            turns = [turn for turn in self._waiting.pop(name) if not turn.done()]
            del self._asked_s[name]
            if not turns:
                continue
            self._running[name] = self._running.pop(name, 0) + len(turns)  # a new turn: last in order
            for turn in turns:
                turn.set_result(None)

    def _give_up(self, name: str, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(name, [])
        if turn not in waiting:
            return
        waiting.remove(turn)
        if not waiting:
            del self._waiting[name], self._asked_s[name]


class ScheduledSlot:
    """One request's turn, as a context."""

    __slots__ = ("_name", "_turns")

    def __init__(self, turns: SlotScheduler, name: str) -> None:
        self._turns = turns
        self._name = name

    async def __aenter__(self) -> None:
        await self._turns.enter(self._name)

    async def __aexit__(self, *_: object) -> None:
        self._turns.leave(self._name)
