"""The load itself, in this process: send what is planned when it is due, and collect what comes of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from loadtest.arrivals import closed_loop, open_loop
from loadtest.client import ChatClient
from loadtest.client_saturation import SaturationMeter
from loadtest.collector import Collector, LiveTotals, Snapshot
from loadtest.promotions import Promoter, PromotionResult
from loadtest.records import RequestRecord
from loadtest.schedule import Plan
from loadtest.settings import DEFAULT_CONCURRENCY, RunSettings
from loadtest.workload import RequestSpec

SNAPSHOT_EVERY_S = 0.5

OnRecord = Callable[[RequestRecord], None]
OnSnapshot = Callable[[Snapshot], None]


@dataclass(slots=True)
class Part:
    """What one process sends: part `index` of `count`, from `start_s` (of the machine's monotonic clock) on."""

    settings: RunSettings
    warm: list[str]
    index: int = 0
    count: int = 1
    start_s: float | None = None
    """None: at once."""


@dataclass(slots=True)
class PartResult:
    """What came of it; `partial` when it was interrupted."""

    tallies: LiveTotals
    meter: SaturationMeter
    swaps: list[PromotionResult]
    partial: bool


class Driver:
    """Runs one part of a load test."""

    def __init__(self, part: Part, on_record: OnRecord, on_snapshot: OnSnapshot | None = None) -> None:
        settings = part.settings
        self._part = part
        self._settings = settings
        self._plan = Plan.of(settings, part.index, part.count)
        self._on_record = on_record
        self._on_snapshot = on_snapshot
        self._collector = Collector(LiveTotals.empty(settings.slo, self._plan.models), settings.cold_after_s)
        self._collector.mark_warm(part.warm)
        self._start_s = 0.0
        self._swaps = Promoter(settings.swaps, self._clock)
        self._load: asyncio.Task[Any] | None = None
        self._interrupted = False

    def interrupt(self) -> None:
        """End the test early; what was answered stays."""
        self._interrupted = True
        if self._load:
            self._load.cancel()

    async def run(self) -> PartResult:
        """Send everything and wait for the answers."""
        meter = SaturationMeter()
        async with AsyncExitStack() as stack:
            settings = self._settings
            client = ChatClient(settings.base_url, settings.key, settings.timeout_s, self._clock)
            await stack.enter_async_context(client)
            if self._part.start_s is not None:
                await asyncio.sleep(self._part.start_s - time.perf_counter())
            self._start_s = self._part.start_s or time.perf_counter()
            await stack.enter_async_context(meter)
            await stack.enter_async_context(self._swaps.running())
            await stack.enter_async_context(self._snapshots())
            await self._until_done_or_interrupted(client)
        return PartResult(self._collector.tallies, meter, self._swaps.done, self._interrupted)

    async def _until_done_or_interrupted(self, client: ChatClient) -> None:
        if not self._interrupted:
            self._load = asyncio.ensure_future(self._loop(client))
            with suppress(asyncio.CancelledError):
                await self._load
            if not self._load.cancelled():
                self._interrupted = False

    async def _loop(self, client: ChatClient) -> None:
        async def send(spec: RequestSpec, intended_s: float, lag_s: float) -> None:
            record = RequestRecord(spec.index, spec.model, intended_s, sent_s=self._clock(), lag_s=lag_s)
            record.asked_tokens = spec.max_tokens
            self._collector.leaving(record)
            try:
                await client.chat(spec, record)
            finally:
                self._collector.complete(record, near_swap=self._swaps.near(record))
                self._on_record(record)

        settings, plan = self._settings, self._plan
        if plan.offsets_s is None:
            users = _share(settings.concurrency or DEFAULT_CONCURRENCY, self._part)
            await closed_loop(plan.specs, users, self._clock, send, think_s=settings.think_s, until_s=settings.until_s)
        else:
            room = _share(settings.concurrency, self._part) if settings.concurrency else None
            await open_loop(plan.specs, plan.offsets_s, room, self._clock, send)

    @asynccontextmanager
    async def _snapshots(self) -> AsyncIterator[None]:
        if self._on_snapshot is None:
            yield
            return
        telling = asyncio.create_task(self._tell(self._on_snapshot))
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell(self, on_snapshot: OnSnapshot) -> None:
        while True:
            await asyncio.sleep(SNAPSHOT_EVERY_S)
            on_snapshot(self._collector.snapshot(self._clock()))

    def _clock(self) -> float:
        return time.perf_counter() - self._start_s


def _share(whole: int, part: Part) -> int:
    return max(1, whole // part.count + (part.index < whole % part.count))
