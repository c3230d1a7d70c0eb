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


class WorkerPool:
    """A bounded pool of threads for one kind of blocking work."""

    def __init__(self, name: str, threads: int) -> None:
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._pending: dict[Future[Any], asyncio.AbstractEventLoop] = {}

    async def run(self, work: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
        """Call `work` in a thread and return its result.

        When the caller is cancelled, work that has begun goes on to its end, and work that waits is dropped.
        """
        return await self.start(work, *arguments, **options)

    def start(self, work: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> "asyncio.Future[_T]":
        """Call `work` in a thread; the future need not be awaited."""
        loop = asyncio.get_running_loop()
        submitted = self._executor.submit(partial(work, *arguments, **options))
        self._pending[submitted] = loop
        submitted.add_done_callback(lambda done: self._pending.pop(done, None))
        return asyncio.wrap_future(submitted, loop=loop)

    async def iterate(self, items: Iterator[_T]) -> AsyncIterator[_T]:
        """Iterate over `items`, each of which is fetched in a thread."""
        while (item := await self.run(next, items, _END)) is not _END:
            yield item

    async def join(self) -> None:
        """Return once all that this event loop has started is done, also what its callers no longer wait for."""
        loop = asyncio.get_running_loop()
        mine = [future for future, started_by in list(self._pending.items()) if started_by is loop]
        await asyncio.gather(*map(asyncio.wrap_future, mine), return_exceptions=True)


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
    """Return once no pool does any work that this event loop has started."""
    for pool in (CRITICAL, FILES, REPORTS):
        await pool.join()


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
