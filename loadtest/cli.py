"""`turntable loadtest`: measure latency and throughput of any OpenAI-compatible server."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.cli import app as bench_app
from loadtest.capacity import SloLimits, find_capacity
from loadtest.comparison import WORSE, compare
from loadtest.delivery import Delivery
from loadtest.errors import InvalidWorkloadError, LoadtestError
from loadtest.metrics import Slo
from loadtest.options import Limit, LoadOptions, ReportFiles, UsdPerHour, command_of
from loadtest.outputs import read_json, read_records
from loadtest.report import LoadReport, report_of_records
from loadtest.schedule import planned_trace
from loadtest.settings import RunSettings
from loadtest.study import Study, compare_mixes, geometric, sweep
from loadtest.terminal import print_comparison
from loadtest.traces import write_trace
from turntable.console import FAILED, App

app = App(
    errors=(LoadtestError,),
    help="Measure latency and throughput of an OpenAI-compatible server.",
    no_args_is_help=True,
)
app.add_typer(bench_app)

DEFAULT_LEVEL_S = 15.0
_INTERRUPTED = "interrupted before anything was measured; there is no report"


@dataclass(frozen=True)
class RunOptions(LoadOptions):
    """The options of `run`."""

    repeats: Annotated[int, typer.Option(min=1, help="Repeat with other seeds, for confidence intervals.")] = 1
    mixes: Annotated[
        str | None, typer.Option(help="Model mixes to compare, like 'base;a;a,b,c'; replaces --models.")
    ] = None


@dataclass(frozen=True)
class SweepOptions(LoadOptions):
    """The options of `sweep`."""

    rates: Annotated[str | None, typer.Option(help="Load levels in requests per second, like 1,2,4,8.")] = None
    users: Annotated[
        str | None, typer.Option(help="Or load levels in concurrent users (closed loop), like 1,2,4,8.")
    ] = None
    from_rate: Annotated[float, typer.Option(min=0.001, help="Without a list: the first load level.")] = 1.0
    factor: Annotated[float, typer.Option(min=1.1, help="Without a list: each load level over the one before.")] = 2.0
    most_levels: Annotated[int, typer.Option(min=1, help="Without a list: the most load levels.")] = 12
    repeats: Annotated[int, typer.Option(min=1, help="Runs per load level, for confidence intervals.")] = 1


@dataclass(frozen=True)
class CapacityOptions(LoadOptions):
    """The options of `capacity`."""

    p99_ttft_ms: Annotated[float | None, typer.Option(min=0.001, help="Limit of the 99th percentile of TTFT.")] = None
    p99_itl_ms: Annotated[float | None, typer.Option(min=0.001, help="Limit of the 99th percentile of ITL.")] = None
    max_error_rate: Annotated[float, typer.Option(min=0, max=1, help="Limit of the share of failed requests.")] = 0.01
    from_rate: Annotated[float, typer.Option(min=0.001, help="The first rate to try.")] = 1.0
    tolerance: Annotated[
        float, typer.Option(min=0.001, help="Stop when the capacity is known to this relative precision.")
    ] = 0.1
    most_probes: Annotated[int, typer.Option(min=1, help="The most rates to try.")] = 14


def run(options: RunOptions) -> None:
    """Send streamed chat requests and report TTFT, ITL, TPOT, latency and throughput, in total and per model."""
    with ExitStack() as files:
        settings = options.settings()
        delivery = Delivery(options, files, options.records)
        if options.mixes is None and options.repeats == 1:
            report = asyncio.run(delivery.measure(settings, "run"))
            delivery.deliver(report)
            failed = report.total.failed or report.verdict != "valid"
        else:
            mixes = _mixes(options.mixes) if options.mixes else [settings.models]
            study = asyncio.run(compare_mixes(mixes, settings, options.repeats, delivery.measure))
            delivery.deliver_study(study)
            failed = study.verdict != "valid" or any(one.total.failed for one in _reports(study))
    if failed:
        raise typer.Exit(FAILED)


def sweep_loads(options: SweepOptions) -> None:
    """Raise the load level by level until the server is saturated; report latency, throughput and cost at each."""
    with ExitStack() as files:
        base = _timed(options.settings())
        delivery = Delivery(options, files, options.records)
        if options.users:
            loads, unit = iter(_numbers(options.users, "--users")), "users"
        else:
            steps = geometric(options.from_rate, options.factor, options.most_levels)
            loads, unit = iter(_numbers(options.rates, "--rates")) if options.rates else steps, "req/s"

        def with_load(load: float) -> RunSettings:
            if options.users:
                return replace(base, rate_per_s=None, ramp=None, concurrency=max(1, int(load)))
            return replace(base, rate_per_s=load, ramp=None, concurrency=options.concurrency, exact_offer=True)

        study = asyncio.run(sweep(loads, with_load, unit, options.repeats, delivery.measure))
        delivery.deliver_study(study)
    if study.verdict != "valid":
        raise typer.Exit(FAILED)


def capacity(options: CapacityOptions) -> None:
    """Find the highest rate within limits of p99 TTFT, p99 ITL and failures, by bisection."""
    with ExitStack() as files:
        if options.p99_ttft_ms is None and options.p99_itl_ms is None:
            raise InvalidWorkloadError("a capacity needs a limit: give --p99-ttft-ms, --p99-itl-ms or both.")
        settings = replace(_timed(options.settings()), ramp=None, concurrency=options.concurrency)
        limits = SloLimits(options.p99_ttft_ms, options.p99_itl_ms, options.max_error_rate)
        delivery = Delivery(options, files, options.records)
        search = find_capacity(
            settings, limits, options.from_rate, options.tolerance, options.most_probes, delivery.measure
        )
        study, bracket = asyncio.run(search)
        delivery.deliver_study(study)
    if bracket.within is None or not bracket.is_settled:
        raise typer.Exit(FAILED)


app.command("run", interrupted=_INTERRUPTED)(command_of(RunOptions, run))
app.command("sweep", interrupted=_INTERRUPTED)(command_of(SweepOptions, sweep_loads))
app.command("capacity", interrupted=_INTERRUPTED)(command_of(CapacityOptions, capacity))


@app.command("compare")
def compare_reports(before: Path, after: Path) -> None:
    """Compare two JSON reports beyond noise; exit code 1 when a figure got worse."""
    comparison = compare(read_json(before), read_json(after))
    print_comparison(comparison)
    if comparison.verdict == WORSE:
        raise typer.Exit(FAILED)


@dataclass(frozen=True, kw_only=True)
class RecordsOptions(ReportFiles):
    """The options of `report`."""

    records: Annotated[Path, typer.Argument(help="The file written by --records.")]
    slo_ttft_ms: Limit = None
    slo_itl_ms: Limit = None
    slo_tpot_ms: Limit = None
    slo_e2e_ms: Limit = None
    usd_per_hour: UsdPerHour = None


def report_records(options: RecordsOptions) -> None:
    """Rebuild a report from the raw timestamps of `--records`, with another SLO or price."""
    with ExitStack() as files:
        delivery = Delivery(options, files)
        slo = Slo(options.slo_ttft_ms, options.slo_itl_ms, options.slo_tpot_ms, options.slo_e2e_ms)
        settings = RunSettings("http://unknown", ("-",), slo=slo, usd_per_hour=options.usd_per_hour)
        delivery.deliver(report_of_records(read_records(options.records), settings))


app.command("report")(command_of(RecordsOptions, report_records))


def write_plan(options: LoadOptions) -> None:
    """Print the planned requests as a trace with an adapter column, for replay or for other tools."""
    rows = list(planned_trace(options.settings()))  # an error in them comes before any output
    write_trace(sys.stdout, iter(rows))


app.command("trace")(command_of(LoadOptions, write_plan))


def _reports(study: Study) -> Iterator[LoadReport]:
    return (report for level in study.levels for report in level.reports)


def _timed(settings: RunSettings) -> RunSettings:
    if settings.requests is None and settings.duration_s is None:
        return replace(settings, duration_s=DEFAULT_LEVEL_S)
    return settings


def _mixes(text: str) -> list[tuple[str, ...]]:
    return [tuple(name.strip() for name in models.split(",")) for models in text.split(";")]


def _numbers(text: str, option: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not 0 < min(numbers) <= max(numbers) < float("inf"):
        raise InvalidWorkloadError(f"{option} must look like 1,2,4,8, not {text!r}.")
    return sorted(numbers)
