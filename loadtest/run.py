"""One load test from start to end: check the server, send the requests, collect the records."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import aiohttp

from loadtest.arrivals import closed_loop, open_loop, poisson_offsets
from loadtest.client import ChatClient, RequestRecord
from loadtest.errors import InvalidWorkloadError, ServerError
from loadtest.workload import RequestSpec, built_in_prompts, plan_requests, read_prompts

DEFAULT_CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What to send where. With `rate_per_s` the loop is open and `concurrency` (None: no limit) only caps it."""

    url: str
    models: tuple[str, ...]
    requests: int = 64
    concurrency: int | None = None
    rate_per_s: float | None = None
    max_tokens: int = 64
    prompts: Path | None = None
    seed: int = 0
    timeout_s: float = 120.0
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).netloc:
            raise InvalidWorkloadError(f"--url must look like http://127.0.0.1:8080, not {self.url!r}.")
        if not self.models or not all(self.models):
            raise InvalidWorkloadError("--models needs at least one model name, such as base,support-triage.")

    @property
    def base_url(self) -> str:
        """The server's root, without `/v1`."""
        return self.url.rstrip("/").removesuffix("/v1")


@dataclass(frozen=True, slots=True)
class LoadRun:
    """The raw result of a test; `partial` when it was interrupted before all requests were answered."""

    records: list[RequestRecord]
    partial: bool


async def run_load(settings: RunSettings, on_record: Callable[[RequestRecord], None]) -> LoadRun:
    """Run the test and hand every record to `on_record` as it is complete; Ctrl-C ends it early.

    Raises LoadtestError when the test cannot start.
    """
    prompts = read_prompts(settings.prompts) if settings.prompts else built_in_prompts()
    start = time.perf_counter()
    records: list[RequestRecord] = []

    def clock() -> float:
        return time.perf_counter() - start

    async with ChatClient(settings.base_url, settings.key, settings.timeout_s, clock) as client:
        await _check_server(client, settings)

        async def send(spec: RequestSpec, intended_s: float) -> None:
            record = RequestRecord(spec.index, spec.model, intended_s, sent_s=clock())
            try:
                await client.chat(spec, record)
            finally:
                records.append(record)
                on_record(record)

        specs = plan_requests(settings.models, prompts, settings.requests, settings.max_tokens, settings.seed)
        start = time.perf_counter()
        if settings.rate_per_s:
            offsets_s = poisson_offsets(settings.rate_per_s, settings.seed)
            load = open_loop(specs, offsets_s, settings.concurrency, clock, send)
        else:
            load = closed_loop(specs, settings.concurrency or DEFAULT_CONCURRENCY, clock, send)
        partial = await _until_interrupted(asyncio.ensure_future(load))
    return LoadRun(records, partial)


async def _until_interrupted(load: asyncio.Future[None]) -> bool:
    with _ctrl_c_calls(load.cancel):
        await asyncio.wait([load])
    if load.cancelled():
        return True
    load.result()
    return False


@contextmanager
def _ctrl_c_calls(stop: Callable[[], object]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _check_server(client: ChatClient, settings: RunSettings) -> None:
    models_url = f"{settings.base_url}/v1/models"
    try:
        status, body = await client.get(models_url)
        if status in (401, 403):
            raise ServerError(f"{settings.base_url} refused the key ({status}): pass --key or set TURNTABLE_API_KEY.")
        served = _model_names(body)
        if status != 200 or served is None:
            raise ServerError(f"{models_url} answered {status} without a model list: check --url.")
        for model in settings.models:
            # A server may accept more names than it lists, such as `name@v3`.
            if model not in served and (await client.get(f"{models_url}/{quote(model, safe='')}"))[0] != 200:
                raise ServerError(f"{settings.base_url} does not serve {model!r}; it serves {', '.join(served)}.")
    except (aiohttp.ClientError, TimeoutError) as error:
        message = f"{settings.base_url} cannot be reached ({_reason(error)}): start the server or check --url."
        raise ServerError(message) from error


def _reason(error: aiohttp.ClientError | TimeoutError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        return "connection refused or name unknown"
    return str(error)


def _model_names(body: object) -> list[str] | None:
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return None
    return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]
