"""When requests are sent: a closed loop of workers, or an open loop that does not wait for answers.

`send` gets the time at which the request was meant to leave. In an open loop that time is fixed in advance, so a
server (or client) that falls behind makes latencies longer instead of the load lighter.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

import numpy as np

from loadtest.workload import RequestSpec

Clock = Callable[[], float]
Send = Callable[[RequestSpec, float], Awaitable[None]]


async def closed_loop(specs: Iterator[RequestSpec], concurrency: int, clock: Clock, send: Send) -> None:
    """Keep `concurrency` requests running: each worker sends its next one when the last is answered."""

    async def worker() -> None:
        for spec in specs:
            await send(spec, clock())

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())


async def open_loop(
    specs: Iterator[RequestSpec], offsets_s: Iterable[float], limit: int | None, clock: Clock, send: Send
) -> None:
    """Send each request at its offset, whatever the others do; beyond `limit` running ones it waits, counted."""
    room = asyncio.Semaphore(limit) if limit else None

    async def depart(spec: RequestSpec, intended_s: float) -> None:
        if room is None:
            return await send(spec, intended_s)
        async with room:
            return await send(spec, intended_s)

    async with asyncio.TaskGroup() as group:
        for spec, intended_s in zip(specs, offsets_s, strict=False):
            # Also when late: a run of overdue requests must not keep answers from being read.
            await asyncio.sleep(max(0.0, intended_s - clock()))
            group.create_task(depart(spec, intended_s))


def poisson_offsets(rate_per_s: float, seed: int) -> Iterator[float]:
    """Arrival times in seconds from the start, without end: independent exponential gaps of mean 1/rate."""
    rng = np.random.default_rng(seed)
    offset_s = 0.0
    while True:
        offset_s += rng.exponential(1 / rate_per_s)
        yield offset_s
