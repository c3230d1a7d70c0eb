"""One load test from start to end: check the server, warm up, send the requests, sum up."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from loadtest.client import ChatClient
from loadtest.client_saturation import ClientLoad
from loadtest.collector import LiveTotals
from loadtest.preparation import check_server, server_version, warm_up
from loadtest.promotions import PromotionResult
from loadtest.provenance import Provenance
from loadtest.records import RequestRecord
from loadtest.runner import Driver, OnRecord, OnSnapshot, Part
from loadtest.schedule import Plan
from loadtest.settings import DEFAULT_CONCURRENCY, RunSettings
from loadtest.workers import Sink, run_in_processes

__all__ = ["DEFAULT_CONCURRENCY", "LoadRun", "RunSettings", "run_load"]


@dataclass(frozen=True, slots=True)
class LoadRun:
    """What a test found; `partial` when it was interrupted before all requests were answered."""

    tallies: LiveTotals
    client: ClientLoad
    partial: bool
    provenance: Provenance
    swaps: list[PromotionResult] = field(default_factory=list)
    warmup_failures: dict[str, str] = field(default_factory=dict)


async def run_load(
    settings: RunSettings,
    on_record: OnRecord | None = None,
    *,
    records: Sink | None = None,
    on_snapshot: OnSnapshot | None = None,
) -> LoadRun:
    """Run the test; every complete record is written to `records`. Ctrl-C ends it early.

    `on_record` sees the records too, as long as one process sends. Raises LoadtestError when the test cannot start.
    """
    models = Plan.of(settings).models
    async with ChatClient(settings.base_url, settings.key, settings.timeout_s, time.perf_counter) as client:
        await check_server(client, settings, models)
        provenance = Provenance.now(settings.base_url, models, await server_version(client, settings))
        warm, failures = await warm_up(client, models, settings.warmup, time.perf_counter)
    with _ctrl_c() as interrupting:
        if settings.processes > 1:
            result = await run_in_processes(settings, warm, records, on_snapshot, interrupting)
        else:
            driver = Driver(Part(settings, warm), _keeper(on_record, records), on_snapshot)
            interrupting(driver.interrupt)
            result = await driver.run()
    return LoadRun(result.tallies, result.meter.load(), result.partial, provenance, result.swaps, failures)


def _keeper(on_record: OnRecord | None, records: Sink | None) -> OnRecord:
    def keep(record: RequestRecord) -> None:
        if records:
            records.write(record.as_line())
        if on_record:
            on_record(record)

    return keep


@contextmanager
def _ctrl_c() -> Iterator[Callable[[Callable[[], None]], None]]:
    loop = asyncio.get_running_loop()

    def interrupting(stop: Callable[[], None]) -> None:
        loop.add_signal_handler(signal.SIGINT, stop)

    try:
        yield interrupting
    finally:
        loop.remove_signal_handler(signal.SIGINT)
