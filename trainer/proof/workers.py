"""Working through many small jobs with so many under way at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVarTuple

from trainer.errors import TrainerError

_Job = TypeVarTuple("_Job")


async def work_through(jobs: Iterable[tuple[*_Job]], do: Callable[[*_Job], Awaitable[None]], concurrency: int) -> None:
    """Do all jobs; raises the first `TrainerError` that one of them raises, after stopping the others."""
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await do(*job)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except* TrainerError as errors:
        raise errors.exceptions[0] from None
