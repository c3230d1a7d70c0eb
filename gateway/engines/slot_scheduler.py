"""Slot scheduler: share the adapter slots of an engine fairly when more adapters have requests than there are slots.

vLLM queues a request while its batch holds as many adapters as there are slots, and never preempts an adapter: those
that always have a request running keep their slots, and the others starve. Here as many adapters run as there are
slots, and all waiting requests of an adapter start together once it gets a slot. When an adapter has waited longer than
`patience_s`, the one that has held its slot longest admits no new requests, finishes its running ones, and frees it.
"""

import asyncio
import time
from collections.abc import Callable


class SlotScheduler:
    """Admits requests to one engine by adapter (engine name): running while it has a slot, waiting otherwise."""

    def __init__(self, *, patience_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots = 0
        """How many adapters may run at a time; 0 while unknown, then all may."""
        self._patience_s = patience_s
        self._clock = clock
        self._running: dict[str, int] = {}
        """Running requests by adapter; the adapter that has held its slot longest is first."""
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        """Waiting requests by adapter; the adapter that has waited longest is first."""
        self._waiting_since_s: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a slot for their adapter."""
        return sum(map(len, self._waiting.values()))

    async def enter(self, name: str) -> None:
        """Wait until a request of an adapter may start; `leave` must follow at its end."""
        if self._may_start(name):
            self._running[name] = self._running.get(name, 0) + 1
            return
        start = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(start)
        self._waiting_since_s.setdefault(name, self._clock())
        try:
            await start
        except asyncio.CancelledError:
            if start.done() and not start.cancelled():
                self.leave(name)  # started and cancelled at once
            else:
                self._stop_waiting(name, start)
            raise

    def leave(self, name: str) -> None:
        """End a request that `enter` has started."""
        self._running[name] -= 1
        if not self._running[name]:
            del self._running[name]
        if self._waiting:
            self._schedule_next()

    def _may_start(self, name: str) -> bool:
        if not self._waiting:
            return name in self._running or len(self._running) < self.slots or not self.slots
        longest_since_s = next(iter(self._waiting_since_s.values()))
        if name not in self._running or name in self._waiting:
            return False
        return name != next(iter(self._running)) or self._clock() - longest_since_s < self._patience_s

    def _schedule_next(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            if name not in self._running and len(self._running) >= self.slots > 0:
                return
            # A wait that was cancelled stands here until its own task has run.
            starts = [start for start in self._waiting.pop(name) if not start.done()]
            del self._waiting_since_s[name]
            if not starts:
                continue
            self._running[name] = self._running.pop(name, 0) + len(starts)  # popped first, so it becomes the last
            for start in starts:
                start.set_result(None)

    def _stop_waiting(self, name: str, start: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(name, [])
        if start not in waiting:
            return
        waiting.remove(start)
        if not waiting:
            del self._waiting[name], self._waiting_since_s[name]
