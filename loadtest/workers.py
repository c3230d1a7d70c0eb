"""The load from several processes, for rates that one core cannot send: each sends its share of one plan.

All processes read the same monotonic clock, so their times need no correction.
"""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from loadtest.collector import Snapshot
from loadtest.errors import ServerError
from loadtest.records import RequestRecord
from loadtest.runner import Driver, OnSnapshot, Part, PartResult
from loadtest.settings import RunSettings

START_DELAY_S = 0.2
"""From the moment when all processes are ready to the start, so that none misses it."""
READY = "ready"
COPIED_BYTES = 1 << 20


class Sink(Protocol):
    """Where lines of records go."""

    def write(self, lines: bytes, /) -> object:
        """Add lines."""


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: "Connection[object, object]"
    result: PartResult | None = None
    snapshot: Snapshot | None = None


async def run_in_processes(
    settings: RunSettings,
    warm: list[str],
    records: Sink | None,
    on_snapshot: OnSnapshot | None,
    interrupting: Callable[[Callable[[], None]], None],
) -> PartResult:
    """Run the test in `settings.processes` processes; `interrupting` is given what to call on Ctrl-C."""
    with TemporaryDirectory(prefix="loadtest-") as directory, ExitStack() as stack:
        folder = Path(directory) if records else None
        workers = [
            _started(Part(settings, warm, index, settings.processes), folder) for index in range(settings.processes)
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


def _started(part: Part, folder: Path | None) -> _Worker:
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
            case PartResult() as result:
                worker.result = result


def _sum(results: list[PartResult]) -> PartResult:
    first, *others = results
    for other in others:
        first.tallies.merge(other.tallies)
        first.meter.merge(other.meter)
        first.partial = first.partial or other.partial
    return first


def _work(part: Part, pipe: "Connection[object, object]", folder: Path | None) -> None:
    """The life of a worker: ready, told when to start, load, result."""
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


async def _work_on(part: Part, pipe: "Connection[object, object]", keep: Callable[[RequestRecord], None]) -> PartResult:
    driver = Driver(part, keep, pipe.send)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, driver.interrupt)
    pipe.send(READY)
    told = await asyncio.to_thread(pipe.recv)
    assert isinstance(told, float)
    part.start_s = told
    return await driver.run()
