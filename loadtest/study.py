"""Studies of several runs: repeats, model mixes, and a sweep over load levels up to saturation."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from loadtest.comparison import estimates
from loadtest.report import DEFINITIONS, LoadReport
from loadtest.settings import RunSettings

Measured = Callable[[RunSettings, str], Awaitable[LoadReport]]
"""Runs one test; the text labels it in the progress display."""
SATURATED_GROWTH = 1.1
"""A level with less than this times the throughput of the previous one, at clearly more load, is saturated."""
CLEARLY_MORE = 1.3


@dataclass(slots=True)
class Level:
    """One load level and the reports of its repeats."""

    label: str
    load: float | None
    """Requests per second, or users at a time in a closed loop."""
    reports: list[LoadReport] = field(default_factory=list)

    @property
    def answered_per_s(self) -> float:
        """Mean over the repeats."""
        return sum(report.total.requests_per_s for report in self.reports) / len(self.reports)

    @property
    def is_growing(self) -> bool:
        """Whether a queue grew in every repeat."""
        return all(report.backlog is not None and report.backlog.grows for report in self.reports)

    @property
    def is_partial(self) -> bool:
        """Whether a repeat was interrupted."""
        return any(report.partial for report in self.reports)

    @property
    def is_invalid(self) -> bool:
        """Whether the client was saturated in a repeat."""
        return any(report.invalid for report in self.reports)

    def as_json(self) -> dict[str, Any]:
        """Return label, load, reports, and estimates over the repeats as JSON."""
        reports = [report.as_json() for report in self.reports]
        return {"label": self.label, "load": self.load, "estimates": estimates(reports), "reports": reports}


@dataclass(slots=True)
class Study:
    """Load levels and the conclusion from them."""

    kind: str
    """`run`, `sweep` or `capacity`."""
    levels: list[Level]
    conclusion: str
    capacity: dict[str, Any] | None = None
    """Result of a capacity search, in figures."""

    @property
    def verdict(self) -> str:
        """Verdict as of a report; a saturated client at one level makes only that level invalid."""
        if self.levels and all(level.is_invalid for level in self.levels):
            return "INVALID: client-bound"
        return "partial" if any(level.is_partial for level in self.levels) else "valid"

    def as_json(self) -> dict[str, Any]:
        """Return the study as JSON, with the definitions of the metrics."""
        return {
            "tool": "turntable loadtest",
            "kind": self.kind,
            "verdict": self.verdict,
            "conclusion": self.conclusion,
            "provenance": self.levels[0].reports[0].provenance.as_json() if self.levels else None,
            **({"capacity": self.capacity} if self.capacity else {}),
            "definitions": DEFINITIONS,
            "levels": [level.as_json() for level in self.levels],
        }


def fresh_runs(measure: Measured) -> Measured:
    """Wrap `measure` so that every run draws its own words, gaps and models.

    What one run leaves in the server's prefix cache must not answer the prompts of the next.
    """
    numbers = count()

    async def measured(settings: RunSettings, label: str) -> LoadReport:
        return await measure(replace(settings, run=next(numbers)), label)

    return measured


async def measure_level(label: str, settings: RunSettings, repeats: int, measure: Measured) -> Level:
    """Run one load level `repeats` times."""
    level = Level(label, settings.rate_per_s or settings.concurrency)
    for repeat in range(repeats):
        name = label if repeats == 1 else f"{label}, repeat {repeat + 1} of {repeats}"
        level.reports.append(await measure(settings, name))
        if level.is_partial:
            break
    return level


async def compare_mixes(
    mixes: Sequence[tuple[str, ...]], settings: RunSettings, repeats: int, measure: Measured
) -> Study:
    """Run the same load on several model mixes, such as the base, one adapter, and many."""
    study, measure = Study("run", [], ""), fresh_runs(measure)
    for models in mixes:
        label = models[0] if len(models) == 1 else f"{len(models)} models" if len(mixes) > 1 else "run"
        study.levels.append(await measure_level(label, replace(settings, models=models), repeats, measure))
        if study.levels[-1].is_partial:
            break
    first = study.levels[0]
    if len(study.levels) > 1 and first.answered_per_s:
        shares = (f"{level.label} {level.answered_per_s / first.answered_per_s:.0%}" for level in study.levels[1:])
        study.conclusion = f"Answered per second, of what {first.label} had: {', '.join(shares)}."
    return study


async def sweep(
    loads: Iterator[float], with_load: Callable[[float], RunSettings], unit: str, repeats: int, measure: Measured
) -> Study:
    """Raise the load until throughput or client is saturated, or the loads end."""
    study = Study("sweep", [], "All loads were answered: the server may be able to do more.")
    measure = fresh_runs(measure)
    for load in loads:
        level = await measure_level(f"{load:g} {unit}", with_load(load), repeats, measure)
        study.levels.append(level)
        if level.is_partial:
            study.conclusion = "Interrupted before the end."
            break
        if level.is_invalid:
            study.conclusion = f"The load tester is saturated at {load:g} {unit}: the server may be able to do more."
            break
        if is_saturated(study.levels):
            best = max(study.levels, key=lambda one: one.answered_per_s)
            study.conclusion = (
                f"Saturated: at most {best.answered_per_s:.2f} answered per second, at {best.label}; "
                f"{load:g} {unit} {'let the queue grow' if level.is_growing else 'brought no more'}."
            )
            break
    return study


def is_saturated(levels: Sequence[Level]) -> bool:
    """Return whether a queue grew at the last level, or clearly more load brought hardly more throughput."""
    if levels[-1].is_growing:
        return True
    if len(levels) < 2:
        return not levels[-1].answered_per_s
    before, last = levels[-2:]
    if before.load is None or last.load is None or last.load < CLEARLY_MORE * before.load:
        return False
    return last.answered_per_s < SATURATED_GROWTH * before.answered_per_s


def geometric(first: float, factor: float, most: int) -> Iterator[float]:
    """Yield `most` loads, each `factor` times the previous one."""
    for step in range(most):
        yield first * factor**step
