"""`turntable loadtest …`: measure any OpenAI-compatible server from outside."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtest.display import live_view, print_report
from loadtest.errors import LoadtestError
from loadtest.options import LoadOptions, command_of
from loadtest.outputs import opened, write_json
from loadtest.report import Report
from loadtest.run import run_load

app = typer.Typer(help="Measure latency and throughput of an OpenAI-compatible server.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Measure latency and throughput of an OpenAI-compatible server."""


@dataclass(frozen=True)
class RunOptions(LoadOptions):
    """The options of `run`."""

    records: Annotated[Path | None, typer.Option(help="Write raw timestamps, one JSON line per request.")] = None


def run(options: RunOptions) -> None:
    """Send streamed chat requests; report TTFT, ITL, TPOT, latency and throughput, in total and per model."""
    with _errors_shown(), ExitStack() as files:
        settings = options.settings()
        json_file = opened(options.json_out, files)
        records = opened(options.records, files)
        with live_view(Console(stderr=True), "run") as on_snapshot:
            result = asyncio.run(run_load(settings, records=records, on_snapshot=on_snapshot))
        report = Report.of(settings, result)
        write_json(json_file, report.as_json())
        if json_file is not sys.stdout.buffer:
            print_report(report, Console())
    if report.total.failed or report.partial or report.invalid:
        sys.exit(1)


app.command("run")(command_of(RunOptions, run))


@contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except LoadtestError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
