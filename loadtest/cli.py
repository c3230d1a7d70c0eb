"""`turntable loadtest …`: measure any OpenAI-compatible server from outside."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Annotated
from urllib.parse import urlsplit

import orjson
import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.bench.cli import app as bench_app
from loadtest.client import RequestRecord
from loadtest.errors import InvalidWorkloadError, LoadtestError
from loadtest.report import Report, print_report
from loadtest.run import DEFAULT_CONCURRENCY, RunSettings, run_load

app = typer.Typer(help="Measure latency and throughput of an OpenAI-compatible server.", no_args_is_help=True)
app.add_typer(bench_app)

LOOPBACK = ("127.0.0.1", "::1", "localhost")

Url = Annotated[str, typer.Option(help="The server's address.")]
Models = Annotated[str, typer.Option(help="Models to ask, separated by commas, in equal shares.")]
Requests = Annotated[int, typer.Option(min=1, help="How many requests to send.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Requests at a time: 8, or no limit with --rate.")]
Rate = Annotated[float | None, typer.Option(min=0.001, help="Open loop: Poisson arrivals, so many per second.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Prompts = Annotated[Path | None, typer.Option(help="JSONL with `messages` or `prompt` per line; else built-in ones.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same requests and arrival times.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds after which a request counts as failed.")]
JsonOut = Annotated[
    Path | None, typer.Option("--json", help="Write the report as JSON; - prints it, without the table.")
]
RecordsOut = Annotated[Path | None, typer.Option("--records", help="Write raw timestamps, one JSON line per request.")]
DataDir = Annotated[Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="Where a local gateway left admin.key.")]
Key = Annotated[
    str | None,
    typer.Option(
        envvar=["TURNTABLE_API_KEY", "TURNTABLE_ADMIN_KEY"], help="API key; else a local gateway's admin.key."
    ),
]


@app.callback()
def group() -> None:
    """Measure latency and throughput of an OpenAI-compatible server."""


@app.command()
def run(
    url: Url = "http://127.0.0.1:8080",
    models: Models = "base",
    requests: Requests = 64,
    concurrency: Concurrency = None,
    rate: Rate = None,
    max_tokens: MaxTokens = 64,
    prompts: Prompts = None,
    seed: Seed = 0,
    timeout_s: Timeout = 120,
    json_out: JsonOut = None,
    records_out: RecordsOut = None,
    key: Key = None,
    data_dir: DataDir = Path("var"),
) -> None:
    """Send streamed chat requests; report TTFT, ITL, TPOT, latency and throughput, in total and per model."""
    with _errors_shown(), ExitStack() as files:
        settings = RunSettings(
            url=url,
            models=tuple(name.strip() for name in models.split(",")),
            requests=requests,
            concurrency=concurrency or (None if rate else DEFAULT_CONCURRENCY),
            rate_per_s=rate,
            max_tokens=max_tokens,
            prompts=prompts,
            seed=seed,
            timeout_s=timeout_s,
            key=key or _local_admin_key(url, data_dir),
        )
        json_file = _opened(json_out, files)
        report = _measured(settings, _opened(records_out, files))
        _deliver(report, json_file)
    if report.total.failed or report.partial:
        sys.exit(1)


def _measured(settings: RunSettings, records_file: IO[bytes] | None) -> Report:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("requests", total=settings.requests)

        def on_record(record: RequestRecord) -> None:
            progress.advance(task)
            if records_file:
                records_file.write(orjson.dumps(asdict(record), option=orjson.OPT_APPEND_NEWLINE))

        result = asyncio.run(run_load(settings, on_record))
    return Report.of(settings, result)


def _deliver(report: Report, json_file: IO[bytes] | None) -> None:
    if json_file:
        json_file.write(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    if json_file is not sys.stdout.buffer:
        print_report(report, Console())


def _opened(path: Path | None, files: ExitStack) -> IO[bytes] | None:
    if path is None:
        return None
    if str(path) == "-":
        return sys.stdout.buffer
    try:
        return files.enter_context(path.open("wb"))
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}): give a path in an existing, writable folder."
        raise InvalidWorkloadError(message) from error


def _local_admin_key(url: str, data_dir: Path) -> str | None:
    # The key of this machine's gateway is nobody else's business: it never goes to another host.
    if urlsplit(url).hostname not in LOOPBACK:
        return None
    try:
        return (data_dir / "admin.key").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except LoadtestError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
