"""Threads for long work on files: unpacking, hashing, copying and deleting adapters.

They are few and apart from the event loop's own, in which keys are revoked and budgets looked up: uploads that take
minutes may wait for each other, and nothing else waits for them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
DEFAULT_THREADS = 16
"""Of the event loop: as many as the database has connections."""
_threads = ThreadPoolExecutor(4, thread_name_prefix="files")


def short_work_threads() -> ThreadPoolExecutor:
    """What an event loop runs `asyncio.to_thread` in, whatever the number of processors."""
    return ThreadPoolExecutor(DEFAULT_THREADS, thread_name_prefix="turntable")


async def in_file_thread(work: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """What the work returns, done in one of these threads."""
    return await asyncio.get_running_loop().run_in_executor(_threads, partial(work, *arguments, **options))


@contextlib.asynccontextmanager
async def entered_in_file_thread(context: AbstractContextManager[Path]) -> AsyncIterator[Path]:
    """A directory that is made and cleared away in one of these threads, also when its user is cancelled."""
    directory = await in_file_thread(context.__enter__)
    try:
        yield directory
    except BaseException as error:
        leave = in_file_thread(context.__exit__, type(error), error, error.__traceback__)
        if not await asyncio.shield(leave):
            raise
    else:
        await asyncio.shield(in_file_thread(context.__exit__, None, None, None))
