"""Load test results on the terminal: a live view while a test runs, then tables and remarks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import typer

from loadtest.collector import Snapshot
from loadtest.comparison import ReportComparison, estimates
from loadtest.metrics import Summary
from loadtest.report import LoadReport
from loadtest.run import provenance_line
from loadtest.runner import OnSnapshot
from loadtest.sentences import backlog_sentence, cached_sentence
from loadtest.statistics import Distribution, MeanEstimate
from loadtest.study import Study
from turntable.console import Column, Table, figures, say, show
from turntable.pages.numbers import number

MOST_ROWS = 20
"""Rows of models; the busiest are shown."""
STUDY_COLUMNS = (
    "total.requests_per_s",
    "total.good_per_s",
    "total.failed",
    "total.ttft.p50_ms",
    "total.ttft.p99_ms",
    "total.itl.p99_ms",
)
LATENCIES = ("ttft", "itl", "tpot", "e2e")


@contextmanager
def live_view(what: str) -> Iterator[OnSnapshot | None]:
    """Show a running test on standard error when that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield lambda snapshot: live.update(Text(snapshot_table(what, snapshot).render(console.width)), refresh=True)


def snapshot_table(what: str, snapshot: Snapshot) -> Table:
    """The state of a running test as one row."""
    names = ("time s", "sent", "answered", "failed", "running", "answered/s", "TTFT p50 ms", "TTFT p99 ms")
    table = Table(*figures(*names), title=what)
    recent = snapshot.recent_ttft_ms
    p50, p99 = np.percentile(recent, (50, 99)).tolist() if recent else (None, None)
    running = snapshot.sent - snapshot.answered - snapshot.failed
    counts = (snapshot.sent, snapshot.answered, snapshot.failed, running)
    rate = snapshot.answered / snapshot.at_s if snapshot.at_s > 0 else 0.0
    latencies = ("-" if value is None else f"{value:.1f}" for value in (p50, p99))
    table.add(f"{snapshot.at_s:.0f}", *map(str, counts), f"{rate:.1f}", *latencies)
    return table


def print_report(report: LoadReport) -> None:
    """Print throughput and latencies as tables, then remarks."""
    if report.verdict != "valid":
        _print_warning(_warning(report))
    for table in _tables(report):
        show(table)
        typer.echo()
    say("Latencies are those of answered requests, from the intended send time.")
    for line in remarks(report):
        say(line)


def _print_warning(text: str) -> None:
    typer.echo(typer.style(text, fg=typer.colors.RED, bold=True))


def _warning(report: LoadReport) -> str:
    if report.invalid:
        return "\n".join([f"{report.verdict}: these figures measure the load tester, not the server.", *report.invalid])
    return "PARTIAL: interrupted before the end."


def _tables(report: LoadReport) -> tuple[Table, Table]:
    busiest = sorted(report.models.items(), key=lambda item: -item[1].requests)[:MOST_ROWS]
    rows = [*busiest, *([("all models", report.total)] if len(report.models) > 1 else [])]
    if report.cold and report.warm:
        rows += [("of these: cold", report.cold), ("of these: warm", report.warm)]
    if report.near_promotion:
        rows.append(("of these: near a promotion", report.near_promotion))
    throughput = Table("model", *figures("ok", "good", "failed", "req/s", "good/s", "tok/s"))
    latency = Table("model", "metric", *figures("p50 ms", "p90 ms", "p99 ms"))
    for place, (name, row) in enumerate(rows):
        rates = (f"{row.requests_per_s:.1f}", f"{row.good_per_s:.1f}", f"{row.output_tokens_per_s:.0f}")
        throughput.add(name, str(row.succeeded), str(row.good), str(row.failed), *rates)
        if place:
            latency.rule()
        for metric in LATENCIES:
            latency.add(name, metric.upper(), *_percentiles(getattr(row, metric)))
    return throughput, latency


def _percentiles(metric: Distribution | None) -> tuple[str, ...]:
    if metric is None:
        return ("-", "-", "-")
    return tuple(f"{value_ms:.1f}" for value_ms in (metric.p50_ms, metric.p90_ms, metric.p99_ms))


def remarks(report: LoadReport) -> list[str]:
    """Sentences on failures, usage, backlog, fairness, promotions, the client and cost."""
    document = report.as_json()
    lines = [*_failures(report), *_usage(report.total)]
    lines += filter(None, (backlog_sentence(document), cached_sentence([document])))
    if len(report.models) > MOST_ROWS:
        lines.append(f"{len(report.models)} models got requests; the busiest {MOST_ROWS} are shown.")
    slowest = max((row for row in report.models.items() if row[1].ttft), key=_p99, default=None)
    if slowest and len(report.models) > 1:
        fairness = f"; Jain's fairness of mean TTFT {report.fairness_ttft:.3f}" if report.fairness_ttft else ""
        lines.append(f"slowest model: {slowest[0]}, TTFT p99 {_p99(slowest):.1f} ms{fairness}.")
    if report.promotions:
        failed = [promotion for promotion in report.promotions if promotion.error]
        reason = f" ({failed[0].error})" if failed else ""
        lines.append(f"{len(report.promotions)} promotions, {len(failed)} of them failed{reason}.")
    if report.client.processes:
        lines.append(f"client: {report.client.cpu_share:.0%} of a core in {report.client.processes} process(es).")
    lines.append(provenance_line(report.provenance.as_json()))
    if report.cost:
        cost = report.cost
        lines.append(
            f"cost: {_usd(cost.per_request)} per request, {_usd(cost.per_good_request)} per good request, "
            f"{_usd(cost.per_million_output_tokens)} per million output tokens at ${cost.usd_per_hour:g} per hour."
        )
    return lines


def _failures(report: LoadReport) -> list[str]:
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


def print_study(study: Study) -> None:
    """Print one row per load level, and the conclusion."""
    names = ("req/s", "good/s", "failed", "TTFT p50", "p99 ms", "ITL p99", "$/1k good")
    table = Table("level", *figures(*names), Column("verdict"))
    for level in study.levels:
        known = {path: MeanEstimate(**row) for path, row in estimates([one.as_json() for one in level.reports]).items()}
        cells = [_estimate(known.get(path)) for path in STUDY_COLUMNS]
        good_cost = known.get("cost.per_good_request")
        verdict = "INVALID" if level.is_invalid else "partial" if level.is_partial else "ok"
        table.add(level.label, *cells, f"{good_cost.mean * 1000:.3g}" if good_cost else "-", verdict)
    show(table)
    for level in study.levels:
        for reason in dict.fromkeys(reason for report in level.reports for reason in report.invalid):
            _print_warning(f"{level.label}: INVALID: client-bound: {reason}")
    if any(len(level.reports) > 1 for level in study.levels):
        say("Figures are means over repeats; --json and --html have their 95% intervals.")
    reports = [report.as_json() for level in study.levels for report in level.reports]
    if sentence := cached_sentence(reports):
        say(sentence)
    if reports:
        say(provenance_line(reports[0]["provenance"]))
    say(f"Verdict: {study.verdict}. {study.conclusion}")


def print_comparison(comparison: ReportComparison) -> None:
    """Print every compared figure with its verdict."""
    table = Table("level", "figure", *figures("before", "after", "change"), Column("verdict"))
    for change in comparison.changes:
        percent = "-" if change.percent is None else f"{change.percent:+.1f}%"
        figure = f"{change.metric.label}, {change.metric.unit}"
        table.add(change.level, figure, number(change.before), number(change.after), percent, change.verdict)
    show(table)
    for warning in comparison.warnings:
        say(warning)
    say(f"Verdict: {comparison.verdict}.")


def _estimate(estimate: MeanEstimate | None) -> str:
    return "-" if estimate is None else number(estimate.mean)
