"""Drive the load: send planned requests when they are due and collect their records, in one process or several.

Several processes serve rates that one core cannot send; each sends its share of one plan. All of them read the same
monotonic clock, so their times need no correction.
"""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from loadtest.arrivals import closed_loop, open_loop
from loadtest.client import ChatClient
from loadtest.client_saturation import SaturationMeter
from loadtest.collector import Collector, LiveTotals, Snapshot
from loadtest.errors import ServerError
from loadtest.promotions import Promoter, PromotionResult
from loadtest.records import RequestRecord
from loadtest.schedule import Plan
from loadtest.settings import DEFAULT_CONCURRENCY, RunSettings
from loadtest.workload import RequestSpec

SNAPSHOT_EVERY_S = 0.5

OnRecord = Callable[[RequestRecord], None]
OnSnapshot = Callable[[Snapshot], None]

START_DELAY_S = 0.2
"""Delay from the moment all processes are ready to the common start."""
READY = "ready"
COPIED_BYTES = 1 << 20


@dataclass(slots=True)
class WorkerTask:
    """Share of one process: part `index` of `count`, from `start_s` (monotonic clock of the machine) on."""

    settings: RunSettings
    warm: list[str]
    index: int = 0
    count: int = 1
    start_s: float | None = None
    """None starts at once."""


@dataclass(slots=True)
class WorkerResult:
    """Result of one part; `partial` when it was interrupted."""

    totals: LiveTotals
    meter: SaturationMeter
    promotions: list[PromotionResult]
    partial: bool


class Driver:
    """Runs one part of a load test."""

    def __init__(self, part: WorkerTask, on_record: OnRecord, on_snapshot: OnSnapshot | None = None) -> None:
        settings = part.settings
        self._part = part
        self._settings = settings
        self._plan = Plan.of(settings, part.index, part.count)
        self._on_record = on_record
        self._on_snapshot = on_snapshot
        self._collector = Collector(LiveTotals.empty(settings.slo, self._plan.models), settings.cold_after_s)
        self._collector.mark_warm(part.warm)
        self._start_s = 0.0
        self._promoter = Promoter(settings.promotions, self._clock)
        self._load: asyncio.Task[Any] | None = None
        self._interrupted = False

    def interrupt(self) -> None:
        """Stop the test early and keep the records so far."""
        self._interrupted = True
        if self._load:
            self._load.cancel()

    async def run(self) -> WorkerResult:
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
            await stack.enter_async_context(self._promoter.running())
            await stack.enter_async_context(self._snapshots())
            await self._until_done_or_interrupted(client)
        return WorkerResult(self._collector.totals, meter, self._promoter.done, self._interrupted)

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
                self._collector.complete(record, near_promotion=self._promoter.near(record))
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


def _share(whole: int, part: WorkerTask) -> int:
    return max(1, whole // part.count + (part.index < whole % part.count))


class Sink(Protocol):
    """Destination of record lines, such as a file."""

    def write(self, lines: bytes, /) -> object:
        """Add lines."""


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: "Connection[object, object]"
    result: WorkerResult | None = None
    snapshot: Snapshot | None = None


async def run_in_processes(
    settings: RunSettings,
    warm: list[str],
    records: Sink | None,
    on_snapshot: OnSnapshot | None,
    interrupting: Callable[[Callable[[], None]], None],
) -> WorkerResult:
    """Run the test in `settings.processes` processes; `interrupting` receives the handler of Ctrl-C."""
    with TemporaryDirectory(prefix="loadtest-") as directory, ExitStack() as stack:
        folder = Path(directory) if records else None
        workers = [
            _started(WorkerTask(settings, warm, index, settings.processes), folder)
            for index in range(settings.processes)
        ]
        for worker in workers:
            stack.callback(_ended, worker)
        interrupting(lambda: _interrupt(workers))
        await asyncio.gather(*(asyncio.to_thread(_receive, worker) for worker in workers))
        start_s = time.perf_counter() + START_DELAY_S
        for worker in workers:
            worker.pipe.send(start_s)
        await asyncio.gather(*(asyncio.to_thread(_follow, worker, workers, on_snapshot) for worker in workers))
        if records and folder:
            for file in sorted(folder.iterdir()):
                with file.open("rb") as part:
                    while lines := part.read(COPIED_BYTES):
                        records.write(lines)
    return _sum([worker.result for worker in workers if worker.result])


def _started(part: WorkerTask, folder: Path | None) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(part, theirs, folder), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _ended(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.join(timeout=5)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _interrupt(workers: list[_Worker]) -> None:
    for worker in workers:
        if worker.process.pid and worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGINT)


def _receive(worker: _Worker) -> object:
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        message = "a process of the load tester ended early; its own output says why."
        raise ServerError(message) from None


def _follow(worker: _Worker, workers: list[_Worker], on_snapshot: OnSnapshot | None) -> None:
    while worker.result is None:
        match _receive(worker):
            case Snapshot() as snapshot:
                worker.snapshot = snapshot
                if on_snapshot:
                    on_snapshot(Snapshot.sum_of(other.snapshot for other in workers if other.snapshot))
            case WorkerResult() as result:
                worker.result = result


def _sum(results: list[WorkerResult]) -> WorkerResult:
    first, *others = results
    for other in others:
        first.totals.merge(other.totals)
        first.meter.merge(other.meter)
        first.partial = first.partial or other.partial
    return first


def _work(part: WorkerTask, pipe: "Connection[object, object]", folder: Path | None) -> None:
    """Run a worker process: report ready, receive the start time, send the load, report the result."""
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        file = stack.enter_context((folder / f"{part.index:04}.jsonl").open("wb")) if folder else None

        def keep(record: RequestRecord) -> None:
            if file:
                file.write(record.as_line())

        result = asyncio.run(_work_on(part, pipe, keep))
        if file:
            # The other side reads it as soon as it has the result.
            file.flush()
        pipe.send(result)


async def _work_on(
    part: WorkerTask, pipe: "Connection[object, object]", keep: Callable[[RequestRecord], None]
) -> WorkerResult:
    driver = Driver(part, keep, pipe.send)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, driver.interrupt)
    pipe.send(READY)
    common_start_s = await asyncio.to_thread(pipe.recv)
    assert isinstance(common_start_s, float)
    part.start_s = common_start_s
    return await driver.run()
