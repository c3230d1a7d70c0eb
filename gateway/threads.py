"""Thread pools for blocking work: one for each kind, so that no kind can keep another one waiting.

    CRITICAL  8  revoke and change keys, lease budgets, share rate limits, change which version is live: tenants' safety
                 and requests wait for these
    FILES     4  unpack, hash, copy and delete adapters: minutes
    REPORTS   4  cost reports, usage, exports, drift, feedback, reconciliation: seconds of database and CPU

Beside them: periodic work has PERIODIC_THREADS of its own (`gateway.background`), `def` routes have ROUTE_THREADS of
FastAPI's (short reads for operators), and the event loop's default pool is left to name resolution and the
decompression of request bodies. The three pools belong to the process, as its processors do: several gateways in one
process share them. The database keeps a connection for each thread, so none waits for another one's connection either.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import anyio.to_thread

_P = ParamSpec("_P")
_T = TypeVar("_T")
_END: Any = object()
JOIN_S = 10.0
"""How long a shutdown waits for threads: a call on a database that hangs would keep it for ever."""
log = logging.getLogger(__name__)


class WorkerPool:
    """A bounded pool of threads for one kind of blocking work."""

    def __init__(self, name: str, threads: int) -> None:
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._name = name
        self._pending: dict[Future[Any], tuple[asyncio.AbstractEventLoop, str]] = {}

    @property
    def unfinished(self) -> list[str]:
        """Names of the work that runs or waits."""
        return sorted(name for _, name in list(self._pending.values()))

    async def run(self, work: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
        """Call `work` in a thread and return its result.

        When the caller is cancelled, work that has begun goes on to its end, and work that waits is dropped.
        """
        return await self.start(work, *arguments, **options)

    def start(self, work: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> "asyncio.Future[_T]":
        """Call `work` in a thread; the future need not be awaited."""
        loop = asyncio.get_running_loop()
        submitted = self._executor.submit(partial(work, *arguments, **options))
        self._pending[submitted] = (loop, getattr(work, "__qualname__", type(work).__name__))
        submitted.add_done_callback(lambda done: self._pending.pop(done, None))
        return asyncio.wrap_future(submitted, loop=loop)

    async def iterate(self, items: Iterator[_T]) -> AsyncIterator[_T]:
        """Iterate over `items`, each of which is fetched in a thread."""
        while (item := await self.run(next, items, _END)) is not _END:
            yield item

    async def join(self, within_s: float = JOIN_S) -> None:
        """Return once all that this event loop has started is done, also what its callers no longer wait for.

        What hangs for longer than `within_s` is logged and given up; it is `unfinished` then.
        """
        loop = asyncio.get_running_loop()
        mine = {future: name for future, (started_by, name) in list(self._pending.items()) if started_by is loop}
        if not mine:
            return
        waiting = {asyncio.wrap_future(future): name for future, name in mine.items()}
        done, hung = await asyncio.wait(waiting, timeout=within_s)
        for future in done:
            if not future.cancelled():
                future.exception()  # its caller was told, or has left
        if hung:
            names = ", ".join(sorted(waiting[future] for future in hung))
            log.error("threads '%s': gave up waiting for %s after %g s", self._name, names, within_s)


CRITICAL = WorkerPool("critical", 8)
FILES = WorkerPool("files", 4)
REPORTS = WorkerPool("reports", 4)
PERIODIC_THREADS = 16
"""More than there are rows of periodic work, so that none waits for another."""
ROUTE_THREADS = 8
_LEDGER_THREADS = 1
MOST_THREADS = CRITICAL.threads + FILES.threads + REPORTS.threads + PERIODIC_THREADS + ROUTE_THREADS + _LEDGER_THREADS
"""How many threads may use the database at the same time."""


def bound_route_threads() -> None:
    """Give the `def` routes that run on this event loop ROUTE_THREADS."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = ROUTE_THREADS


async def join_all() -> None:
    """Return once no pool does any work that this event loop has started; after `JOIN_S` what hangs is given up."""
    await asyncio.gather(*(pool.join() for pool in (CRITICAL, FILES, REPORTS)))


def unfinished_work() -> list[str]:
    """Names of the work in the pools of the process that has not ended."""
    return [name for pool in (CRITICAL, FILES, REPORTS) for name in pool.unfinished]


@contextlib.asynccontextmanager
async def entered_in_file_thread(context: AbstractContextManager[Path]) -> AsyncIterator[Path]:
    """Enter and leave a context that yields a directory in FILES, also when the caller is cancelled."""
    directory = await FILES.run(context.__enter__)
    try:
        yield directory
    except BaseException as error:
        leaving = FILES.start(context.__exit__, type(error), error, error.__traceback__)
        if not await asyncio.shield(leaving):
            raise
    else:
        await asyncio.shield(FILES.start(context.__exit__, None, None, None))
