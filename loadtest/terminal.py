"""Reports on the terminal: while a test runs, and when it is over."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.measure import Measurement
from rich.table import Column, Table

from loadtest.collector import Snapshot
from loadtest.comparison import ReportComparison, estimates
from loadtest.confidence import MeanEstimate
from loadtest.metrics import Summary
from loadtest.provenance import in_words
from loadtest.report import Report
from loadtest.runner import OnSnapshot
from loadtest.samples import Distribution
from loadtest.sentences import backlog_sentence, cached_sentence
from loadtest.study import Study
from turntable.pages.numbers import number

MOST_ROWS = 20
"""Models shown; with more of them the busiest ones are."""
STUDY_COLUMNS = (
    "total.requests_per_s",
    "total.good_per_s",
    "total.failed",
    "total.ttft.p50_ms",
    "total.ttft.p99_ms",
    "total.itl.p99_ms",
)
MOST_WIDTH = 1000
LATENCIES = ("ttft", "itl", "tpot", "e2e")


@contextmanager
def live_view(console: Console, what: str) -> Iterator[OnSnapshot | None]:
    """Show a running test on a terminal; nothing elsewhere."""
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield lambda snapshot: live.update(snapshot_table(what, snapshot), refresh=True)


def snapshot_table(what: str, snapshot: Snapshot) -> Table:
    """One row on the state of a running test."""
    names = ("time s", "sent", "answered", "failed", "running", "answered/s", "TTFT p50 ms", "TTFT p99 ms")
    table = Table(*(Column(name, justify="right") for name in names), title=what)
    recent = snapshot.recent_ttft_ms
    p50, p99 = np.percentile(recent, (50, 99)).tolist() if recent else (None, None)
    running = snapshot.sent - snapshot.answered - snapshot.failed
    counts = (snapshot.sent, snapshot.answered, snapshot.failed, running)
    rate = snapshot.answered / snapshot.at_s if snapshot.at_s > 0 else 0.0
    latencies = ("-" if value is None else f"{value:.1f}" for value in (p50, p99))
    table.add_row(f"{snapshot.at_s:.0f}", *map(str, counts), f"{rate:.1f}", *latencies)
    return table


def print_report(report: Report, console: Console) -> None:
    """Show throughput and latencies as tables, and under them what needs attention."""
    if report.verdict != "valid":
        console.print(_warning(report), style="bold red", highlight=False, markup=False)
    for table in _tables(report):
        print_whole(console, table)
    console.print("Latencies are those of answered requests, from the intended send time.", highlight=False)
    for line in remarks(report):
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _warning(report: Report) -> str:
    if report.invalid:
        return "\n".join(
            [f"{report.verdict}: these figures are about the load tester, not the server.", *report.invalid]
        )
    return "PARTIAL: interrupted before the end."


def print_whole(console: Console, table: Table) -> None:
    """Print a table with no cell cut: as wide as it must be, or as it likes to be where nobody watches a terminal."""
    needed = Measurement.get(console, console.options.update(max_width=MOST_WIDTH), table)
    width = max(console.width, needed.minimum if console.is_terminal else needed.maximum)
    wide = Console(file=console.file, width=width, force_terminal=console.is_terminal, color_system=None)
    (console if width == console.width else wide).print(table)


def _tables(report: Report) -> tuple[Table, Table]:
    busiest = sorted(report.models.items(), key=lambda item: -item[1].requests)[:MOST_ROWS]
    rows = [*busiest, *([("all models", report.total)] if len(report.models) > 1 else [])]
    if report.cold and report.warm:
        rows += [("of these: cold", report.cold), ("of these: warm", report.warm)]
    if report.near_swap:
        rows.append(("of these: near a promotion", report.near_swap))
    throughput = Table(_named("model"), *map(_figure, ("ok", "good", "failed", "req/s", "good/s", "tok/s")))
    latency = Table(_named("model"), _named("metric"), *map(_figure, ("p50 ms", "p90 ms", "p99 ms")))
    for name, row in rows:
        rates = (f"{row.requests_per_s:.1f}", f"{row.good_per_s:.1f}", f"{row.output_tokens_per_s:.0f}")
        throughput.add_row(name, str(row.succeeded), str(row.good), str(row.failed), *rates)
        for metric in LATENCIES:
            latency.add_row(name, metric.upper(), *_percentiles(getattr(row, metric)))
        latency.add_section()
    return throughput, latency


def _named(heading: str) -> Column:
    return Column(heading, overflow="fold")


def _figure(heading: str) -> Column:
    return Column(heading, justify="right", no_wrap=True)


def _percentiles(metric: Distribution | None) -> tuple[str, ...]:
    if metric is None:
        return ("-", "-", "-")
    return tuple(f"{value_ms:.1f}" for value_ms in (metric.p50_ms, metric.p90_ms, metric.p99_ms))


def remarks(report: Report) -> list[str]:
    """Sentences on what needs attention, and on cost."""
    document = report.as_json()
    lines = [*_failures(report), *_usage(report.total)]
    lines += filter(None, (backlog_sentence(document), cached_sentence([document])))
    if len(report.models) > MOST_ROWS:
        lines.append(f"{len(report.models)} models were asked; the busiest {MOST_ROWS} are shown.")
    slowest = max((row for row in report.models.items() if row[1].ttft), key=_p99, default=None)
    if slowest and len(report.models) > 1:
        fairness = f"; Jain's fairness of mean TTFT {report.fairness_ttft:.3f}" if report.fairness_ttft else ""
        lines.append(f"slowest model: {slowest[0]}, TTFT p99 {_p99(slowest):.1f} ms{fairness}.")
    if report.swaps:
        failed = [swap for swap in report.swaps if swap.error]
        reason = f" ({failed[0].error})" if failed else ""
        lines.append(f"{len(report.swaps)} promotions, {len(failed)} of them refused or lost{reason}.")
    if report.client.processes:
        lines.append(f"client: {report.client.cpu_share:.0%} of a core in {report.client.processes} process(es).")
    lines.append(in_words(report.provenance.as_json()))
    if report.cost:
        cost = report.cost
        lines.append(
            f"cost: {_usd(cost.per_request)} per request, {_usd(cost.per_good_request)} per good request, "
            f"{_usd(cost.per_million_output_tokens)} per million output tokens at ${cost.usd_per_hour:g} per hour."
        )
    return lines


def _failures(report: Report) -> list[str]:
    lines = [f"{count} failed: {kind}" for kind, count in report.total.errors.items()]
    lines += [f"warm-up of {model} failed: {error}" for model, error in report.warmup_failures.items()]
    if report.total.unfinished:
        lines.append(f"{report.total.unfinished} requests were still running when the test was interrupted.")
    return lines


def _usage(total: Summary) -> list[str]:
    lines = []
    if total.usage_missing:
        lines.append(f"{total.usage_missing} answers came without usage: their chunks were counted instead.")
    if total.usage_below_chunks:
        lines.append(
            f"{total.usage_below_chunks} answers claim fewer tokens than the chunks they came in: the usage is wrong."
        )
    if total.usage_above_chunks:
        lines.append(
            f"{total.usage_above_chunks} answers claim more tokens than chunks "
            f"({total.completion_tokens} tokens, {total.counted_chunks} chunks in all)."
        )
    return lines


def _p99(row: tuple[str, Summary]) -> float:
    return row[1].ttft.p99_ms if row[1].ttft else 0.0


def _usd(value: float | None) -> str:
    return "-" if value is None else f"${value:.3g}"


def print_study(study: Study, console: Console) -> None:
    """Show a row per load level, and what follows from them."""
    names = ("req/s", "good/s", "failed", "TTFT p50", "p99 ms", "ITL p99", "$/1k good")
    columns = (*map(_figure, names), Column(no_wrap=True))
    table = Table(_named("level"), *columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for level in study.levels:
        known = {path: MeanEstimate(**row) for path, row in estimates([one.as_json() for one in level.reports]).items()}
        cells = [_estimate(known.get(path)) for path in STUDY_COLUMNS]
        good_cost = known.get("cost.per_good_request")
        verdict = "INVALID" if level.is_invalid else "partial" if level.is_partial else "ok"
        table.add_row(level.label, *cells, f"{good_cost.mean * 1000:.3g}" if good_cost else "-", verdict)
    print_whole(console, table)
    for level in study.levels:
        for reason in dict.fromkeys(reason for report in level.reports for reason in report.invalid):
            console.print(f"{level.label}: INVALID: client-bound: {reason}", style="bold red", markup=False)
    if any(len(level.reports) > 1 for level in study.levels):
        console.print("Figures are means over repeats; --json and --html have their 95 % intervals.", highlight=False)
    reports = [report.as_json() for level in study.levels for report in level.reports]
    if sentence := cached_sentence(reports):
        console.print(sentence, highlight=False)
    if reports:
        console.print(in_words(reports[0]["provenance"]), highlight=False, markup=False)
    console.print(f"Verdict: {study.verdict}. {study.conclusion}", highlight=False, markup=False)


def print_comparison(comparison: ReportComparison, console: Console) -> None:
    """Show every compared figure with its verdict."""
    table = Table(_named("level"), _named("figure"), *map(_figure, ("before", "after", "change")), _named("verdict"))
    for change in comparison.changes:
        percent = "-" if change.percent is None else f"{change.percent:+.1f} %"
        figure = f"{change.measure.label}, {change.measure.unit}"
        table.add_row(change.level, figure, number(change.before), number(change.after), percent, change.verdict)
    print_whole(console, table)
    for warning in comparison.warnings:
        console.print(warning, highlight=False, markup=False)
    console.print(f"Verdict: {comparison.verdict}.", highlight=False)


def _estimate(estimate: MeanEstimate | None) -> str:
    return "-" if estimate is None else number(estimate.mean)
