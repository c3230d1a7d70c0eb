"""Run one load test from start to end: check the server, warm up, send the requests, sum up."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any
from urllib.parse import quote

import httpx

from loadtest.bench.machine import machine
from loadtest.client import ChatClient
from loadtest.client_saturation import ClientLoad
from loadtest.collector import LiveTotals
from loadtest.errors import ServerError
from loadtest.promotions import PromotionResult
from loadtest.records import RequestRecord
from loadtest.runner import Driver, OnRecord, OnSnapshot, Sink, WorkerTask, run_in_processes
from loadtest.schedule import Plan
from loadtest.settings import DEFAULT_CONCURRENCY, RunSettings
from loadtest.workload import RequestSpec, built_in_prompts

WARMUPS_AT_A_TIME = 4
WARMUP_TOKENS = 8


async def check_server(client: ChatClient, settings: RunSettings, models: Sequence[str]) -> None:
    """Raise ServerError unless the server answers and serves these models."""
    models_url = f"{settings.base_url}/v1/models"
    try:
        status, body = await client.get(models_url)
        if status in (401, 403):
            raise ServerError(f"{settings.base_url} refused the key ({status}): pass --key or set TURNTABLE_API_KEY.")
        served = _model_names(body)
        if status != 200 or served is None:
            raise ServerError(f"{models_url} answered {status} without a model list: check --url.")
        for model in models:
            # Servers may accept more names than they list, such as `name@v3`.
            if model not in served and (await client.get(f"{models_url}/{quote(model, safe='')}"))[0] != 200:
                raise ServerError(f"{settings.base_url} does not serve {model!r}; it serves {', '.join(served)}.")
    except (httpx.HTTPError, TimeoutError) as error:
        message = (
            f"{settings.base_url}, {settings.url_from}, cannot be reached ({_reason(error)}): start the server, or "
            "name another with --url or TURNTABLE_GATEWAY_URL."
        )
        raise ServerError(message) from error


async def server_version(client: ChatClient, settings: RunSettings) -> str | None:
    """Return the version that the server reports at `/version`, as vLLM does; None when it does not."""
    try:
        _, body = await client.get(f"{settings.base_url}/version")
    except (httpx.HTTPError, TimeoutError):
        return None
    version = body.get("version") if isinstance(body, dict) else None
    return version if isinstance(version, str) else None


async def warm_up(
    client: ChatClient, models: Sequence[str], requests: int, clock: Callable[[], float]
) -> tuple[list[str], dict[str, str]]:
    """Send `requests` requests to every model; returns the models that answered and the errors of the others."""
    failures: dict[str, str] = {}
    room = asyncio.Semaphore(WARMUPS_AT_A_TIME)

    async def warm(model: str) -> None:
        async with room:
            for number in range(requests):
                now_s = clock()
                record = RequestRecord(number, model, now_s, now_s)
                await client.chat(RequestSpec(number, model, built_in_prompts()[0], WARMUP_TOKENS), record)
                if record.error:
                    failures[model] = f"{record.error}: {record.message}"

    if requests:
        async with asyncio.TaskGroup() as group:
            for model in models:
                group.create_task(warm(model))
    return [model for model in models if requests and model not in failures], failures


def _reason(error: httpx.HTTPError | TimeoutError) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "no answer in time"
    # httpx has no class of its own for a certificate that it does not trust.
    if isinstance(error, httpx.ConnectError) and "SSL" not in str(error):
        return "connection refused or name unknown"
    return str(error)


def _model_names(body: object) -> list[str] | None:
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return None
    return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Provenance of a report: time, version, machine, server and models."""

    started_at: str | None
    """UTC, ISO 8601; None for a report on raw timestamps."""
    turntable_version: str
    machine: dict[str, str]
    """The machine of the load tester."""
    url: str | None
    models: tuple[str, ...]
    server_version: str | None = None
    """As the server reports at `/version`; None when it does not."""

    @classmethod
    def now(cls, url: str, models: Sequence[str], server_version: str | None) -> "Provenance":
        """Return the provenance of a test that starts now."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return cls(started_at, metadata.version("turntable-gateway"), machine(), url, tuple(models), server_version)

    @classmethod
    def of_records(cls, models: Sequence[str]) -> "Provenance":
        """Return the provenance of a report on raw timestamps, which lack time and server."""
        return cls(None, metadata.version("turntable-gateway"), machine(), None, tuple(models))

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)


def provenance_line(provenance: dict[str, Any]) -> str:
    """Render the JSON of a provenance as one line."""
    server = f" ({provenance['server_version']})" if provenance.get("server_version") else ""
    measured = (
        f"Measured {provenance['started_at'].replace('T', ' ').replace('Z', ' UTC')}"
        if provenance.get("started_at")
        else "Made"
    )
    of = f" of {provenance['url']}{server}" if provenance.get("url") else " from raw timestamps"
    where = provenance["machine"]
    return (
        f"{measured}{of}, by Turntable {provenance['turntable_version']} on {where['cores']} cores of "
        f"{where['processor']}."
    )


__all__ = ["DEFAULT_CONCURRENCY", "LoadRun", "RunSettings", "run_load"]


@dataclass(frozen=True, slots=True)
class LoadRun:
    """Result of a test; `partial` when it was interrupted before all requests were answered."""

    totals: LiveTotals
    client: ClientLoad
    partial: bool
    provenance: Provenance
    promotions: list[PromotionResult] = field(default_factory=list)
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
            driver = Driver(WorkerTask(settings, warm), _keeper(on_record, records), on_snapshot)
            interrupting(driver.interrupt)
            result = await driver.run()
    return LoadRun(result.totals, result.meter.load(), result.partial, provenance, result.promotions, failures)


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
