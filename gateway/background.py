"""Background work: what the gateway does beside requests, and what becomes of an exception there.

Periodic work is a row with a name, its seconds and what to do. Whatever goes wrong in it is logged and counted, and it
is done again; what keeps going wrong is named by `/ready`. Work that is started once belongs to a group, which keeps it
alive, waits for it or ends it, and logs and counts its exception as well.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.exc import DBAPIError

from gateway.errors import EngineUnavailableError
from gateway.threads import PERIODIC_THREADS, WorkerPool

log = logging.getLogger(__name__)
T = TypeVar("T")
_IN_A_ROW = 3
"""So often in a row work has to fail before `/ready` names it."""
_STUCK_S = 60.0
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Periodic:
    """Work that is done at once and then every so many seconds, which may change from one time to the next.

    While `is_essential` work fails for a reason of its own, the gateway is not ready: what it does keeps others safe.
    A database that is away is no such reason; each part of the gateway says for itself what it does without one.
    """

    name: str
    seconds: float | Callable[[], float]
    work: Callable[[], Awaitable[object]]
    is_essential: bool = False

    @property
    def pause_s(self) -> float:
        """How long to wait now."""
        return self.seconds() if callable(self.seconds) else self.seconds


@dataclass(slots=True)
class _Health:
    row: Periodic
    in_a_row: int = 0
    is_own_fault: bool = False
    began_s: float | None = None
    error: str = ""

    @property
    def is_stuck(self) -> bool:
        return self.began_s is not None and time.monotonic() - self.began_s > _STUCK_S

    @property
    def is_failing(self) -> bool:
        return self.in_a_row >= _IN_A_ROW or (self.row.is_essential and self.is_stuck)


class WorkFailedError(EngineUnavailableError):
    """Work that keeps the gateway safe fails again and again."""

    code = "background_work_failed"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The gateway's background task '{name}' fails again and again, so it is not ready; its log says why."
        )


class Background:
    """All periodic work of one gateway, and the groups of what is started once."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._failures = Counter(
            "turntable_background_failures",
            "Background work that ended with an exception, by task; periodic work goes on.",
            ("task",),
            registry=registry,
        )
        self._health: dict[str, _Health] = {}
        self._loops: list[asyncio.Task[None]] = []
        # Of their own: uploads that fill the shared threads do not keep a key from being revoked.
        self._threads = WorkerPool("background", PERIODIC_THREADS)

    def start(self, rows: Iterable[Periodic]) -> None:
        """Do the work of these rows from now on, until `close`."""
        self._loops += [asyncio.create_task(self.repeat(row), name=row.name) for row in rows]

    async def repeat(self, row: Periodic) -> None:
        """Do a row's work, until cancelled."""
        self._failures.labels(row.name)
        health = self._health[row.name] = _Health(row)
        try:
            while True:
                await self._once(health)
                pause_s = row.pause_s
                await asyncio.sleep(min(pause_s, _LONGEST_PAUSE_S) if health.in_a_row else pause_s)
        finally:
            self._health.pop(row.name, None)

    def blocking(self, work: Callable[[], object]) -> Callable[[], Awaitable[object]]:
        """Work that blocks, to be done in a thread that nothing but background work uses."""
        return lambda: self._threads.run(work)

    def group(self, name: str) -> "Group":
        """A group of work that is started once."""
        return Group(name, self._failed_once)

    @property
    def failing(self) -> list[str]:
        """The names of periodic work that fails again and again, or of essential work that hangs."""
        return sorted(health.row.name for health in self._health.values() if health.is_failing)

    def require_healthy(self) -> None:
        """Raise `WorkFailedError` while work fails that keeps the gateway safe."""
        for health in self._health.values():
            if health.row.is_essential and health.is_failing and health.is_own_fault:
                raise WorkFailedError(health.row.name)

    async def close(self) -> None:
        """End all periodic work; what blocks in a thread is waited for."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops.clear()
        await self._threads.join()

    async def _once(self, health: _Health) -> None:
        health.began_s = time.monotonic()
        try:
            await health.row.work()
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            self._failed(health, error)  # what it waited for was cancelled, not the work itself
        except Exception as error:
            self._failed(health, error)
        else:
            if health.in_a_row:
                log.warning("background task '%s' works again after %d failures", health.row.name, health.in_a_row)
            health.in_a_row, health.error = 0, ""
        finally:
            health.began_s = None

    def _failed(self, health: _Health, error: BaseException) -> None:
        """A task that fails each second would fill the log: a new error is told whole, the same one at 2, 4, 8, …"""
        self._failures.labels(health.row.name).inc()
        text = f"{type(error).__name__}: {_first_line(error)}"
        health.in_a_row += 1
        is_new, health.error = text != health.error, text
        is_away = isinstance(error, DBAPIError)
        health.is_own_fault = not is_away
        if is_new and not is_away:
            log.error("background task '%s' failed; it goes on", health.row.name, exc_info=error)
        elif is_new or health.in_a_row.bit_count() == 1:
            what = "the database does not answer" if is_away else "failed again"
            log.warning("background task '%s': %s (%d in a row: %s)", health.row.name, what, health.in_a_row, text)

    def _failed_once(self, name: str, error: BaseException) -> None:
        self._failures.labels(name).inc()
        if isinstance(error, DBAPIError):
            log.warning("background work '%s': the database does not answer (%s)", name, _first_line(error))
        else:
            log.error("background work '%s' failed", name, exc_info=error)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


class Group:
    """Tasks that are started and left to themselves: they live until they end, and no exception of theirs is lost."""

    def __init__(self, name: str, failed: Callable[[str, BaseException], None]) -> None:
        self._name = name
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start work now; it may be awaited, and need not be."""
        task = asyncio.get_running_loop().create_task(work, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def join(self) -> None:
        """Return once all of it has ended."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """End all of it."""
        for task in self._tasks:
            task.cancel()
        await self.join()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                self._failed(self._name, error)
