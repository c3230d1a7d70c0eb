"""Compare two reports: which metrics changed by more than repeats of the same test differ.

Reports are read as JSON; Welch's t-test with a family-wise level decides between better, worse and noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from loadtest.statistics import MeanEstimate, difference

Json = dict[str, Any]

BETTER, WORSE, NOISE, UNKNOWN = "better", "worse", "noise", "unknown"
FAMILY_LEVEL = 0.95
"""Probability that no metric of a level is called changed when none has."""


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """A metric: its path in a report, its label and unit, and whether more of it is better."""

    path: str
    label: str
    unit: str
    more_is_better: bool = False

    def of(self, report: Mapping[str, Any]) -> float | None:
        """Return its value in a report; None when the report has none."""
        value: Any = report
        for name in self.path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None


COMPARED_METRICS = (
    ComparedMetric("total.requests_per_s", "answered", "/s", more_is_better=True),
    ComparedMetric("total.good_per_s", "good", "/s", more_is_better=True),
    ComparedMetric("total.output_tokens_per_s", "output", "tokens/s", more_is_better=True),
    ComparedMetric("total.ttft.p50_ms", "TTFT p50", "ms"),
    ComparedMetric("total.ttft.p95_ms", "TTFT p95", "ms"),
    ComparedMetric("total.ttft.p99_ms", "TTFT p99", "ms"),
    ComparedMetric("total.itl.p50_ms", "ITL p50", "ms"),
    ComparedMetric("total.itl.p99_ms", "ITL p99", "ms"),
    ComparedMetric("total.tpot.p50_ms", "TPOT p50", "ms"),
    ComparedMetric("total.e2e.p50_ms", "E2E p50", "ms"),
    ComparedMetric("total.e2e.p99_ms", "E2E p99", "ms"),
    ComparedMetric("total.failed", "failed", "requests"),
    ComparedMetric("cost.per_request", "cost per request", "$"),
    ComparedMetric("cost.per_good_request", "cost per good request", "$"),
    ComparedMetric("cost.per_million_output_tokens", "cost per 1M output tokens", "$"),
)


def levels_of(document: Mapping[str, Any]) -> list[Json]:
    """Return the load levels of a report file: one for a single run, each with `label` and `reports`."""
    if "levels" in document:
        levels: list[Json] = document["levels"]
        return levels
    return [{"label": "run", "reports": [document]}]


def values(level: Mapping[str, Any], metric: ComparedMetric) -> list[float]:
    """Return one value per repeat of a level; repeats without it are left out."""
    found = (metric.of(report) for report in level["reports"])
    return [value for value in found if value is not None]


def mean(level: Mapping[str, Any], path: str) -> float | None:
    """Return the mean over repeats of the figure at `path`."""
    known = values(level, ComparedMetric(path, path, ""))
    return sum(known) / len(known) if known else None


def estimates(reports: Sequence[Json]) -> dict[str, Json]:
    """Return mean and 95 % confidence interval over repeats of every metric in the reports."""
    level = {"reports": reports}
    return {
        metric.path: asdict(MeanEstimate.of(known)) for metric in COMPARED_METRICS if (known := values(level, metric))
    }


@dataclass(frozen=True, slots=True)
class Change:
    """Change of one metric at one load level."""

    level: str
    metric: ComparedMetric
    before: float
    after: float
    half_width: float | None
    """Of the confidence interval of the change; None when a side has fewer than two repeats."""
    verdict: str

    @property
    def percent(self) -> float | None:
        """The change relative to before; None from 0."""
        return (self.after - self.before) / self.before * 100 if self.before else None


@dataclass(frozen=True, slots=True)
class ReportComparison:
    """All changes, and warnings about reports that are not comparable."""

    changes: list[Change]
    warnings: list[str]

    @property
    def verdict(self) -> str:
        """`worse` when anything is, else `better` when anything is, else `noise`, or `unknown` without repeats."""
        found = {change.verdict for change in self.changes}
        return next((verdict for verdict in (WORSE, BETTER, NOISE) if verdict in found), UNKNOWN)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> ReportComparison:
    """Compare the levels that both reports have, by label, or their only ones."""
    left, right = levels_of(before), levels_of(after)
    if len(left) == len(right) == 1:
        pairs = [(left[0], right[0])]
    else:
        by_label = {level["label"]: level for level in right}
        pairs = [(level, by_label[level["label"]]) for level in left if level["label"] in by_label]
    warnings = [*_verdicts(before, after), *_different_settings(pairs)]
    if not pairs:
        warnings.append("The reports have no load level in common.")
    changes = [change for pair in pairs for change in _changes(*pair)]
    if changes and all(change.verdict == UNKNOWN for change in changes):
        warnings.append("One run each says nothing about noise: run both with --repeats 3 or more.")
    return ReportComparison(changes, warnings)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    both = [
        (metric, old, new)
        for metric in COMPARED_METRICS
        if (old := values(before, metric)) and (new := values(after, metric))
    ]
    # Each of many metrics gets its share of the allowed chance of a false alarm.
    level = 1 - (1 - FAMILY_LEVEL) / max(1, len(both))
    return [_change(before["label"], metric, old, new, level) for metric, old, new in both]


def _change(label: str, metric: ComparedMetric, old: list[float], new: list[float], level: float) -> Change:
    found = difference(old, new, level)
    if found is None:
        return Change(label, metric, fmean(old), fmean(new), None, UNKNOWN)
    change, half_width = found
    direction = BETTER if (change > 0) == metric.more_is_better else WORSE
    verdict = NOISE if abs(change) <= half_width else direction
    return Change(label, metric, fmean(old), fmean(new), half_width, verdict)


def _verdicts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    named = (("first", before), ("second", after))
    return [f"The {name} report is {doc.get('verdict')}." for name, doc in named if doc.get("verdict") != "valid"]


def _different_settings(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    ignored = {"url", "seed", "run"}
    different = {
        name
        for left, right in pairs
        for name, value in left["reports"][0]["settings"].items()
        if name not in ignored and right["reports"][0]["settings"].get(name) != value
    }
    return [f"The tests differ in {', '.join(sorted(different))}."] if different else []
