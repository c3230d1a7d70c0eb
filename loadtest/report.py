"""The result of a load test, as a table for people and as JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from rich.console import Console
from rich.table import Column, Table

from loadtest.run import LoadRun, RunSettings
from loadtest.stats import Distribution, Summary, duration_s, summarise

DEFINITIONS = {
    "ttft": "intended send time to first chunk with text",
    "itl": "gaps between consecutive chunks with text, pooled over requests",
    "tpot": "first to last chunk with text over output tokens - 1, per request",
    "e2e": "intended send time to end of answer",
    "send_delay": "intended to real send time",
    "latencies": "answered requests only; failed requests are counted in errors",
    "tokens": "the server's usage; counted chunks where it gave none",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was asked, what came of it in total and per model; `partial` when the test was interrupted."""

    settings: dict[str, Any]
    partial: bool
    duration_s: float
    total: Summary
    models: dict[str, Summary]

    @classmethod
    def of(cls, settings: RunSettings, run: LoadRun) -> Self:
        """The report on a run."""
        over_s = duration_s(run.records)
        names = dict.fromkeys(settings.models)
        asked = asdict(settings)
        del asked["key"]
        return cls(
            settings=asked | {"prompts": str(settings.prompts) if settings.prompts else "built-in"},
            partial=run.partial,
            duration_s=over_s,
            total=summarise(run.records, over_s),
            models={
                name: summarise([record for record in run.records if record.model == name], over_s) for name in names
            },
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, with the definitions of the metrics."""
        return {"tool": "turntable loadtest", "definitions": DEFINITIONS, **asdict(self)}


def print_report(report: Report, console: Console) -> None:
    """Show throughput and latencies as tables, and under them what needs attention."""
    rows = [*report.models.items(), *([("total", report.total)] if len(report.models) > 1 else [])]
    if report.partial:
        console.print("PARTIAL: interrupted before the end.", style="bold red")
    throughput = Table("model", *(Column(name, justify="right") for name in ("ok", "failed", "req/s", "tok/s")))
    latency = Table("model", "metric", *(Column(name, justify="right") for name in ("p50 ms", "p90 ms", "p99 ms")))
    for name, row in rows:
        rates = (f"{row.requests_per_s:.1f}", f"{row.output_tokens_per_s:.0f}")
        throughput.add_row(name, str(row.succeeded), str(row.failed), *rates)
        for metric in ("ttft", "itl", "tpot", "e2e"):
            latency.add_row(name, metric.upper(), *_percentiles(getattr(row, metric)))
        latency.add_section()
    console.print(throughput, latency)
    console.print("Latencies are those of answered requests, from the intended send time.")
    for line in _remarks(report.total):
        console.print(line)


def _percentiles(metric: Distribution | None) -> tuple[str, ...]:
    if metric is None:
        return ("-", "-", "-")
    return tuple(f"{value_ms:.1f}" for value_ms in (metric.p50_ms, metric.p90_ms, metric.p99_ms))


def _remarks(total: Summary) -> Sequence[str]:
    remarks = [f"{count} failed: {kind}" for kind, count in total.errors.items()]
    if total.unfinished:
        remarks.append(f"{total.unfinished} requests were still running when the test was interrupted.")
    if total.usage_missing:
        remarks.append(f"{total.usage_missing} answers came without usage: their chunks were counted instead.")
    if total.usage_below_chunks:
        remarks.append(
            f"{total.usage_below_chunks} answers claim fewer tokens than the chunks they came in: the usage is wrong."
        )
    if total.usage_above_chunks:
        remarks.append(
            f"{total.usage_above_chunks} answers claim more tokens than chunks "
            f"({total.completion_tokens} tokens, {total.counted_chunks} chunks in all)."
        )
    return remarks
