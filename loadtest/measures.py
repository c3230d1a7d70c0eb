"""The figures by which load levels and reports are compared, read from reports as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.confidence import Estimate

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure: where it stands in a report, what people call it, and whether more of it is better."""

    path: str
    label: str
    unit: str
    more_is_better: bool = False

    def of(self, report: Mapping[str, Any]) -> float | None:
        """Its value in a report; None when the report has none."""
        value: Any = report
        for name in self.path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None


MEASURES = (
    Measure("total.requests_per_s", "answered", "/s", more_is_better=True),
    Measure("total.good_per_s", "good", "/s", more_is_better=True),
    Measure("total.output_tokens_per_s", "output", "tokens/s", more_is_better=True),
    Measure("total.ttft.p50_ms", "TTFT p50", "ms"),
    Measure("total.ttft.p95_ms", "TTFT p95", "ms"),
    Measure("total.ttft.p99_ms", "TTFT p99", "ms"),
    Measure("total.itl.p50_ms", "ITL p50", "ms"),
    Measure("total.itl.p99_ms", "ITL p99", "ms"),
    Measure("total.tpot.p50_ms", "TPOT p50", "ms"),
    Measure("total.e2e.p50_ms", "E2E p50", "ms"),
    Measure("total.e2e.p99_ms", "E2E p99", "ms"),
    Measure("total.failed", "failed", "requests"),
    Measure("cost.per_request", "cost per request", "$"),
    Measure("cost.per_good_request", "cost per good request", "$"),
    Measure("cost.per_million_output_tokens", "cost per 1M output tokens", "$"),
)


def levels_of(document: Mapping[str, Any]) -> list[Json]:
    """The load levels of a report file: one for a single run, each with `label` and `reports`."""
    if "levels" in document:
        levels: list[Json] = document["levels"]
        return levels
    return [{"label": "run", "reports": [document]}]


def values(level: Mapping[str, Any], measure: Measure) -> list[float]:
    """One value per repeat of a level; repeats without it are left out."""
    found = (measure.of(report) for report in level["reports"])
    return [value for value in found if value is not None]


def mean(level: Mapping[str, Any], path: str) -> float | None:
    """The mean over repeats of the figure at `path`."""
    known = values(level, Measure(path, path, ""))
    return sum(known) / len(known) if known else None


def estimates(reports: Sequence[Json]) -> dict[str, Json]:
    """Mean and 95 % confidence interval over repeats of every measure that the reports have."""
    level = {"reports": reports}
    return {measure.path: asdict(Estimate.of(known)) for measure in MEASURES if (known := values(level, measure))}
