"""Compare two reports: which measures changed by more than repeats of the same test differ.

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
"""Probability that no measure of a level is called changed when none has."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure: its path in a report, its label and unit, and whether more of it is better."""

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
    """Return the load levels of a report file: one for a single run, each with `label` and `reports`."""
    if "levels" in document:
        levels: list[Json] = document["levels"]
        return levels
    return [{"label": "run", "reports": [document]}]


def values(level: Mapping[str, Any], measure: Measure) -> list[float]:
    """Return one value per repeat of a level; repeats without it are left out."""
    found = (measure.of(report) for report in level["reports"])
    return [value for value in found if value is not None]


def mean(level: Mapping[str, Any], path: str) -> float | None:
    """Return the mean over repeats of the figure at `path`."""
    known = values(level, Measure(path, path, ""))
    return sum(known) / len(known) if known else None


def estimates(reports: Sequence[Json]) -> dict[str, Json]:
    """Return mean and 95 % confidence interval over repeats of every measure in the reports."""
    level = {"reports": reports}
    return {measure.path: asdict(MeanEstimate.of(known)) for measure in MEASURES if (known := values(level, measure))}


@dataclass(frozen=True, slots=True)
class Change:
    """Change of one measure at one load level."""

    level: str
    measure: Measure
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
        (measure, old, new)
        for measure in MEASURES
        if (old := values(before, measure)) and (new := values(after, measure))
    ]
    # Each of many measures gets its share of the allowed chance of a false alarm.
    level = 1 - (1 - FAMILY_LEVEL) / max(1, len(both))
    return [_change(before["label"], measure, old, new, level) for measure, old, new in both]


def _change(label: str, measure: Measure, old: list[float], new: list[float], level: float) -> Change:
    found = difference(old, new, level)
    if found is None:
        return Change(label, measure, fmean(old), fmean(new), None, UNKNOWN)
    change, half_width = found
    direction = BETTER if (change > 0) == measure.more_is_better else WORSE
    verdict = NOISE if abs(change) <= half_width else direction
    return Change(label, measure, fmean(old), fmean(new), half_width, verdict)


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
