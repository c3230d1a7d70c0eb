"""The report of a load test: settings, latency and throughput, cost per request, and whether the figures are valid."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from loadtest.backlog import Backlog
from loadtest.client_saturation import ClientLoad, client_bound
from loadtest.collector import LiveTotals
from loadtest.metrics import MetricAccumulator, Summary, jain
from loadtest.promotions import PromotionResult
from loadtest.records import RequestRecord
from loadtest.run import LoadRun, Provenance, RunSettings
from loadtest.settings import DEFAULT_CONCURRENCY

HOUR_S = 3600

DEFINITIONS = {
    "ttft": "intended send time to first chunk with text",
    "itl": "gaps between consecutive chunks with text, pooled over requests",
    "tpot": "first to last chunk with text over output tokens - 1, per request",
    "e2e": "intended send time to end of answer",
    "send_delay": "intended to real send time; of it, lag is the client's own and queueing is waiting for room",
    "latencies": "answered requests only; failed requests are counted in errors, and as not good",
    "good": "answered with its own TTFT, TPOT, E2E and p99 gap within the SLO",
    "tokens": "the server's usage; counted chunks where it gave none",
    "cached": "prompt tokens from the server's prefix cache, as its usage says; nothing where it says nothing",
    "left behind": "share of a steady load with which the server did not keep up: a queue grew by that much",
    "cold": "sent before its model had given an answer in this test, warm-up included",
    "fairness_answered": "Jain's index over models of the share of requests that were answered",
    "fairness_ttft": "Jain's index over models of the mean TTFT",
    "percentiles": "exact up to 100,000 samples, within 0.25 % beyond",
    "cost": "price per hour times the length of the test, over what was done in it",
}


@dataclass(frozen=True, slots=True)
class LevelCost:
    """Cost of one load level in US dollars; None where there is nothing to divide by."""

    usd_per_hour: float
    usd: float
    """Price of the duration of the test, idle time included."""
    per_request: float | None
    per_good_request: float | None
    """Over requests answered within the SLO only: late and failed ones are paid for, too."""
    per_million_output_tokens: float | None
    per_million_tokens: float | None
    """Over prompt and output tokens alike."""

    @classmethod
    def of(cls, summary: Summary, over_s: float, usd_per_hour: float) -> "LevelCost":
        """Return the cost of `over_s` seconds, divided by the requests and tokens of a summary."""
        usd = usd_per_hour * over_s / HOUR_S

        def share(count: float) -> float | None:
            return usd / count if count else None

        return cls(
            usd_per_hour=usd_per_hour,
            usd=usd,
            per_request=share(summary.succeeded),
            per_good_request=share(summary.good),
            per_million_output_tokens=share(summary.completion_tokens / 1e6),
            per_million_tokens=share((summary.prompt_tokens + summary.completion_tokens) / 1e6),
        )


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Settings and results of a load test, in total and per model; `partial` when it was interrupted."""

    settings: dict[str, Any]
    partial: bool
    duration_s: float
    offered_per_s: float | None
    """Intended requests per second, as measured."""
    total: Summary
    models: dict[str, Summary]
    cold: Summary | None
    warm: Summary | None
    near_promotion: Summary | None
    """Requests that ran during a promotion, or were sent within a second after one."""
    fairness_answered: float | None
    fairness_ttft: float | None
    client: ClientLoad
    invalid: list[str]
    """Why the client was the bottleneck; a test with any reason here says nothing about the server."""
    cost: LevelCost | None
    backlog: Backlog | None
    """Whether the server kept up with a steady load; None in a closed loop, and when the test was too short to tell."""
    provenance: Provenance
    promotions: list[PromotionResult] = field(default_factory=list)
    warmup_failures: dict[str, str] = field(default_factory=dict)
    ttft_shares: list[tuple[float, float]] = field(default_factory=list)
    """Cumulative distribution of TTFT: milliseconds, and the share of answers up to there."""

    @classmethod
    def of(cls, settings: RunSettings, run: LoadRun) -> Self:
        """Return the report on a run."""
        totals = run.totals
        over_s = totals.total.duration_s
        total = totals.total.summary(over_s)
        models = {name: accumulator.summary(over_s) for name, accumulator in totals.models.items()}
        lag = total.lag if settings.is_open_loop else None
        return cls(
            settings=_public(settings),
            partial=run.partial,
            duration_s=over_s,
            offered_per_s=totals.total.offered_per_s if settings.is_open_loop else None,
            total=total,
            models=models,
            cold=_if_any(totals.cold, over_s),
            warm=_if_any(totals.warm, over_s),
            near_promotion=_if_any(totals.near_promotion, over_s),
            fairness_answered=jain(row.succeeded / row.requests for row in models.values() if row.requests),
            fairness_ttft=jain(row.ttft.mean_ms for row in models.values() if row.ttft),
            client=run.client,
            invalid=client_bound(run.client, lag, total.ttft, over_s),
            cost=LevelCost.of(total, over_s, settings.usd_per_hour) if settings.usd_per_hour is not None else None,
            backlog=totals.course.backlog() if settings.is_steady else None,
            provenance=run.provenance,
            promotions=run.promotions,
            warmup_failures=run.warmup_failures,
            ttft_shares=totals.total.samples["ttft"].shares(),
        )

    @property
    def verdict(self) -> str:
        """`valid`, `partial` or `INVALID: client-bound`."""
        if self.invalid:
            return "INVALID: client-bound"
        return "partial" if self.partial else "valid"

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON, with the definitions of the metrics."""
        return {"tool": "turntable loadtest", "verdict": self.verdict, "definitions": DEFINITIONS, **asdict(self)}


def report_of_records(records: Iterable[RequestRecord], settings: RunSettings) -> LoadReport:
    """Return the report on records read from disk, which do not hold the client's load."""
    totals = LiveTotals.empty(settings.slo)
    for record in records:
        totals.add(record)
    provenance = Provenance.of_records(sorted(totals.models))
    partial = totals.total.unfinished > 0
    return LoadReport.of(settings, LoadRun(totals, ClientLoad(0, 0.0, 0.0, None), partial, provenance))


def _public(settings: RunSettings) -> dict[str, Any]:
    stated = asdict(settings)
    del stated["key"], stated["url_from"]
    if stated["promotions"]:
        del stated["promotions"]["admin_key"]
    if not settings.is_open_loop:
        stated["concurrency"] = settings.concurrency or DEFAULT_CONCURRENCY
    made_up = settings.prompt_words or settings.output_tokens or settings.turns > 1 or settings.prefix_words
    source = "trace lengths, random words" if settings.trace else "random words" if made_up else "built-in"
    return stated | {
        "prompts": str(settings.prompts) if settings.prompts else source,
        "trace": str(settings.trace) if settings.trace else None,
    }


def _if_any(accumulator: MetricAccumulator, over_s: float) -> Summary | None:
    return accumulator.summary(over_s) if accumulator.requests else None
