"""Arrival processes: a closed loop of users, or an open loop that does not wait for answers.

`send` gets the intended send time and the client's own lateness. In an open loop intended times are fixed in advance,
so a server (or client) that falls behind makes latencies longer instead of the load lighter (no coordinated omission).
Open-loop times come from a process of mean gap 1 (constant, Poisson, or gamma) stretched by a rate that may ramp.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from loadtest.errors import InvalidWorkloadError
from loadtest.workload import RequestSpec, Seed

Clock = Callable[[], float]
Send = Callable[[RequestSpec, float, float], Awaitable[None]]
"""Called with the request, its intended time and the client's lateness, both in seconds."""
GAPS_PER_DRAW = 1024


async def closed_loop(
    specs: Iterator[RequestSpec],
    concurrency: int,
    clock: Clock,
    send: Send,
    *,
    think_s: float = 0.0,
    until_s: float = math.inf,
) -> None:
    """Run `concurrency` users: each sends its next request `think_s` after its last answer, none after `until_s`."""

    async def user() -> None:
        while (now_s := clock()) < until_s and (spec := next(specs, None)) is not None:
            await send(spec, now_s, 0.0)
            if think_s:
                await asyncio.sleep(think_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(user())


async def open_loop(
    specs: Iterator[RequestSpec], offsets_s: Iterable[float], limit: int | None, clock: Clock, send: Send
) -> None:
    """Send each request at its offset, whatever the others do; beyond `limit` running ones it waits, counted."""
    room = asyncio.Semaphore(limit) if limit else None

    async def depart(spec: RequestSpec, intended_s: float) -> None:
        lag_s = max(0.0, clock() - intended_s)
        if room is None:
            return await send(spec, intended_s, lag_s)
        async with room:
            return await send(spec, intended_s, lag_s)

    async with asyncio.TaskGroup() as group:
        for intended_s, spec in zip(offsets_s, specs, strict=False):
            # Also when late: a run of overdue requests must not keep answers from being read.
            await asyncio.sleep(max(0.0, intended_s - clock()))
            group.create_task(depart(spec, intended_s))


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests per second: from `start_per_s` to `end_per_s` within `ramp_s`, and `end_per_s` from then on."""

    start_per_s: float
    end_per_s: float
    ramp_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Parse a ramp: `1:10:60` goes from 1 to 10 per second within 60 seconds."""
        try:
            start, end, ramp = (float(part) for part in text.split(":"))
        except ValueError:
            start = end = ramp = -1.0
        if start < 0 or end <= 0 or ramp <= 0 or not math.isfinite(start + end + ramp):
            raise InvalidWorkloadError(f"--ramp must look like 1:10:60 (from, to, seconds), not {text!r}.")
        return cls(start, end, ramp)

    def when(self, due: float) -> float:
        """Return the time in seconds at which request number `due` is due."""
        in_ramp = (self.start_per_s + self.end_per_s) / 2 * self.ramp_s
        if due >= in_ramp:
            return self.ramp_s + (due - in_ramp) / self.end_per_s
        slope = (self.end_per_s - self.start_per_s) / self.ramp_s
        # The stable form of the quadratic's root: exact also when the slope is 0.
        return 2 * due / (self.start_per_s + math.sqrt(self.start_per_s**2 + 2 * slope * due))


def offsets_s(rate: Rate, shape: float | None, seed: Seed) -> Iterator[float]:
    """Yield arrival times in seconds from the start, without end.

    Gaps are gamma distributed with this shape and mean 1/rate: 1 is Poisson, less is burstier (their coefficient of
    variation is 1/sqrt(shape)), None is constant.
    """
    rng = np.random.default_rng(seed)
    due = 0.0
    while True:
        gaps = np.ones(GAPS_PER_DRAW) if shape is None else rng.gamma(shape, 1 / shape, GAPS_PER_DRAW)
        for gap in gaps.tolist():
            due += gap
            yield rate.when(due)


def exact_offsets_s(rate_per_s: float, over_s: float, shape: float | None, seed: Seed) -> Iterator[float]:
    """Return the arrival times of exactly rate x time requests within `over_s` seconds.

    Gaps vary as those of `offsets_s` given that so many came, so a level offers what its name says: by itself, a
    Poisson process of 60 requests is off by 13 %.
    """
    count = max(1, round(rate_per_s * over_s))
    if shape is None:
        return ((number + 1) / rate_per_s for number in range(count))
    gaps = np.random.default_rng(seed).gamma(shape, 1 / shape, count + 1)
    return iter((gaps.cumsum()[:-1] / gaps.sum() * over_s).tolist())


def poisson_offsets(rate_per_s: float, seed: Seed) -> Iterator[float]:
    """Yield Poisson arrivals: independent exponential gaps of mean 1/rate."""
    return offsets_s(Rate(rate_per_s, rate_per_s), 1.0, seed)
