"""Background work: runs periodic tasks and groups of one-off tasks, and logs and counts their exceptions.

Everything that runs in the background of a gateway:

- periodic tasks: the table in `gateway.app`, run here; a task goes on after any exception, and one that keeps failing
  is named by `/ready`, which turns red when the task is essential
- one-off tasks, in groups that are waited for or cancelled at shutdown: settling rows of interrupted requests
  (`settlement`), budget leases (`budgets`), canary rollbacks, shadow requests, unloads of replaced versions
- one supervisor task per engine (`gateway.engines.supervisor`): a state machine, whose end ends the gateway
- one thread of the ledger, which folds the journal into the database (`gateway.metering.ledger`)
"""

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.exc import DBAPIError

from gateway.errors import EngineUnavailableError
from gateway.threads import JOIN_S, PERIODIC_THREADS, WorkerPool

log = logging.getLogger(__name__)
T = TypeVar("T")
_FAILURES = 3
"""Consecutive failures before `/ready` names a task."""
_STUCK_S = 60.0
"""Longer than any call of an essential task may take."""
_HUNG_S = 600.0
"""Longer than any call of another task may take: reports and retention work for minutes."""
_MAX_RETRY_S = 30.0


@dataclass(frozen=True)
class Periodic:
    """A periodic task: `work` is called at once and then every `seconds`, which may change between calls.

    `work` blocks and runs `in_thread`, or runs on the event loop and may be a coroutine function. While an
    `is_essential` task fails, the gateway is not ready. An unreachable database does not count as a failure here: each
    part of the gateway decides what it does without one.
    """

    name: str
    seconds: float | Callable[[], float]
    work: Callable[[], object]
    in_thread: bool = False
    is_essential: bool = False

    @property
    def pause_s(self) -> float:
        """Seconds until the next call."""
        return self.seconds() if callable(self.seconds) else self.seconds


@dataclass(slots=True)
class _TaskHealth:
    task: Periodic
    failures: int = 0
    own_failures: int = 0
    """Failures in a row that were not the database being unreachable."""
    began_s: float | None = None
    error: str = ""

    @property
    def is_stuck(self) -> bool:
        most_s = _STUCK_S if self.task.is_essential else _HUNG_S
        return self.began_s is not None and time.monotonic() - self.began_s > most_s

    @property
    def is_failing(self) -> bool:
        return self.failures >= _FAILURES or self.is_stuck

    @property
    def makes_unready(self) -> bool:
        return self.task.is_essential and (self.is_stuck or self.own_failures >= _FAILURES)


class BackgroundTaskError(EngineUnavailableError):
    """An essential background task fails repeatedly."""

    code = "background_work_failed"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The gateway is not ready: its background task '{name}' hangs or fails repeatedly; "
            "the gateway's log has the error."
        )


class Background:
    """Runs the periodic tasks of one gateway, and makes groups of one-off tasks."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._failures = Counter(
            "turntable_background_failures",
            "Background tasks that raised an exception, by task; periodic tasks go on.",
            ("task",),
            registry=registry,
        )
        self._health: dict[str, _TaskHealth] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._threads = WorkerPool("background", PERIODIC_THREADS)

    def start(self, tasks: Iterable[Periodic]) -> None:
        """Run these tasks until `close`."""
        self._loops += [asyncio.create_task(self.repeat(task), name=task.name) for task in tasks]

    async def repeat(self, task: Periodic) -> None:
        """Run a task until cancelled."""
        self._failures.labels(task.name)
        health = self._health[task.name] = _TaskHealth(task)
        try:
            while True:
                await self._once(health)
                await asyncio.sleep(self._pause_s(health))
        finally:
            self._health.pop(task.name, None)

    def group(self, name: str) -> "TaskSet":
        """Make a group of one-off tasks."""
        return TaskSet(name, self._failed_once)

    @property
    def failing(self) -> list[str]:
        """Names of the tasks that fail repeatedly or hang."""
        return sorted(health.task.name for health in self._health.values() if health.is_failing)

    @property
    def unfinished(self) -> list[str]:
        """Names of the work of periodic tasks that runs in threads."""
        return self._threads.unfinished

    def require_healthy(self) -> None:
        """Raise `BackgroundTaskError` while an essential task hangs or fails for a reason other than the database."""
        for health in self._health.values():
            if health.makes_unready:
                raise BackgroundTaskError(health.task.name)

    async def close(self) -> None:
        """Cancel all periodic tasks and wait for their threads; what hangs for longer than `JOIN_S` is given up."""
        for loop in self._loops:
            loop.cancel()
        if self._loops:
            _, hung = await asyncio.wait(self._loops, timeout=JOIN_S)
            for loop in hung:
                log.error("background task '%s' did not end within %g s and was given up", loop.get_name(), JOIN_S)
        self._loops.clear()
        await self._threads.join()

    def _pause_s(self, health: _TaskHealth) -> float:
        try:
            pause_s = health.task.pause_s
        except Exception as error:
            self._failed(health, error)
            return _MAX_RETRY_S
        return min(pause_s, _MAX_RETRY_S) if health.failures else pause_s

    async def _once(self, health: _TaskHealth) -> None:
        health.began_s = time.monotonic()
        try:
            if health.task.in_thread:
                await self._threads.run(health.task.work)
            elif inspect.isawaitable(running := health.task.work()):
                await running
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            self._failed(health, error)  # something it awaited was cancelled, not the task itself
        except Exception as error:
            self._failed(health, error)
        else:
            if health.failures:
                log.warning("background task '%s' recovered after %d failures", health.task.name, health.failures)
            health.failures, health.own_failures, health.error = 0, 0, ""
        finally:
            health.began_s = None

    def _failed(self, health: _TaskHealth, error: BaseException) -> None:
        """Log a new error with its traceback, and the same error again after 2, 4, 8, … failures only."""
        self._failures.labels(health.task.name).inc()
        text = f"{type(error).__name__}: {_first_line(error)}"
        health.failures += 1
        is_new, health.error = text != health.error, text
        is_away = isinstance(error, DBAPIError)
        health.own_failures = 0 if is_away else health.own_failures + 1
        if is_new and not is_away:
            log.error("background task '%s' failed and will be retried", health.task.name, exc_info=error)
        elif is_new or health.failures.bit_count() == 1:
            what = "the database is unreachable" if is_away else "failed again"
            log.warning("background task '%s': %s (%d in a row: %s)", health.task.name, what, health.failures, text)

    def _failed_once(self, name: str, error: BaseException) -> None:
        self._failures.labels(name).inc()
        if isinstance(error, DBAPIError):
            log.warning("background task '%s': the database is unreachable (%s)", name, _first_line(error))
        else:
            log.error("background task '%s' failed", name, exc_info=error)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


class TaskSet:
    """One-off tasks: kept alive until they end, and their exceptions are logged and counted."""

    def __init__(self, name: str, failed: Callable[[str, BaseException], None]) -> None:
        self._name = name
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a task now; it need not be awaited."""
        task = asyncio.get_running_loop().create_task(work, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def join(self) -> None:
        """Wait until all tasks have ended."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """Cancel all tasks and wait for them."""
        for task in self._tasks:
            task.cancel()
        await self.join()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                self._failed(self._name, error)
