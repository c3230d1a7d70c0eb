"""Capacity search: the highest request rate within an SLO, by doubling and then bisection."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from loadtest.report import LoadReport
from loadtest.settings import RunSettings
from loadtest.study import Level, Measured, Study, fresh_runs

LEAST_REQUESTS = 30
"""A rate is probed for long enough to send so many: fewer do not show whether a queue grows."""
LONGER, LEAST_LATENCIES = 1.5, 4
"""A probe that was too short is repeated for so many times as long, or for so many answers one after the other."""
PLAIN_GROWTH = 0.25
"""A queue that grows by less is probed once more: by chance many requests may have come late in the test."""


class ProbeOutcome(StrEnum):
    """Outcome of probing one rate."""

    WITHIN = "within"
    BEYOND = "beyond"
    UNKNOWN = "unknown"
    """Interrupted, too short, or the client was saturated: no statement about the server."""


Probe = Callable[[float], Awaitable[ProbeOutcome]]


@dataclass(frozen=True, slots=True)
class SloLimits:
    """SLO of a load level, beside answering every request offered; None is no limit."""

    p99_ttft_ms: float | None = None
    p99_itl_ms: float | None = None
    most_failed_share: float = 0.01

    def broken_by(self, report: LoadReport, allowance_ms: float = 0.0) -> list[str]:
        """List the limits that a report breaks by more than the allowance, as sentences."""
        total = report.total
        failed_share = 1 - total.succeeded / total.requests if total.requests else 1.0
        broken = []
        if failed_share > self.most_failed_share:
            broken.append(f"{failed_share:.1%} failed (limit {self.most_failed_share:.1%})")
        for name, found, limit in (("TTFT", total.ttft, self.p99_ttft_ms), ("ITL", total.itl, self.p99_itl_ms)):
            if limit is not None and found is not None and found.p99_ms > limit + allowance_ms:
                broken.append(f"p99 {name} {found.p99_ms:.1f} ms (limit {limit:g} ms)")
        return broken

    def outcome(self, report: LoadReport) -> ProbeOutcome:
        """Judge the report of a probe.

        A late client makes latencies longer, never shorter: limits that are kept in spite of it are kept. Limits that
        are broken count as broken by the server only if they are without the client's lateness, too.
        """
        if report.partial:
            return ProbeOutcome.UNKNOWN
        lags = [lag.p99_ms for lag in (report.total.lag, report.client.loop_lag) if lag]
        allowance_ms = max(lags, default=0.0) if report.invalid else 0.0
        if self.broken_by(report, allowance_ms):
            return ProbeOutcome.BEYOND
        if report.backlog is None or self.broken_by(report):
            return ProbeOutcome.UNKNOWN
        if report.backlog.grows:
            return ProbeOutcome.UNKNOWN if report.invalid else ProbeOutcome.BEYOND
        return ProbeOutcome.WITHIN

    def reasons(self, report: LoadReport) -> list[str]:
        """List why a rate is beyond the limits, as sentences."""
        return [*self.broken_by(report), *_growth(report)]


def _growth(report: LoadReport) -> list[str]:
    backlog = report.backlog
    if backlog is None or not backlog.grows:
        return []
    return [
        f"the queue grew ({backlog.answered_per_s:.4g} were answered per second; answers took "
        f"{backlog.first_third_ms / 1000:.3g} s at the start and {backlog.last_third_ms / 1000:.3g} s at the end)"
    ]


@dataclass(frozen=True, slots=True)
class Bracket:
    """The highest rate known to be within the limits, and the lowest known to be beyond; None where none is known."""

    within: float | None
    beyond: float | None
    is_settled: bool
    """False when the search ended for lack of probes or of an answer."""


async def bracket_capacity(probe: Probe, start: float, tolerance: float, most_probes: int) -> Bracket:
    """Search between powers of two around `start` until the interval is within `tolerance` of its lower end."""
    within: float | None = None
    beyond: float | None = None
    for _ in range(most_probes):
        if within is None:
            rate = start if beyond is None else beyond / 2
        elif beyond is None:
            rate = within * 2
        elif beyond <= within * (1 + tolerance):
            return Bracket(within, beyond, is_settled=True)
        else:
            rate = (within + beyond) / 2
        match await probe(rate):
            case ProbeOutcome.WITHIN:
                within = rate
            case ProbeOutcome.BEYOND:
                beyond = rate
            case ProbeOutcome.UNKNOWN:
                return Bracket(within, beyond, is_settled=False)
    settled = within is not None and beyond is not None and beyond <= within * (1 + tolerance)
    return Bracket(within, beyond, is_settled=settled)


async def find_capacity(
    settings: RunSettings, limits: SloLimits, start: float, tolerance: float, most_probes: int, measure: Measured
) -> tuple[Study, Bracket]:
    """Probe rates until the capacity is known; the study's levels are the probes in order of rate."""
    levels: list[Level] = []
    measure = fresh_runs(measure)

    async def probe(rate: float) -> ProbeOutcome:
        level = await _probed(replace(settings, rate_per_s=rate, exact_offer=True), limits, measure)
        levels.append(level)
        return limits.outcome(level.reports[-1])

    bracket = await bracket_capacity(probe, start, tolerance, most_probes)
    levels.sort(key=lambda level: level.load or 0.0)
    return Study("capacity", levels, conclusion(bracket, levels, limits), figures(bracket, levels, limits)), bracket


async def _probed(settings: RunSettings, limits: SloLimits, measure: Measured) -> Level:
    """Probe one rate, and again where the first time was too short to tell, or its queue may have grown by chance."""
    rate = settings.rate_per_s or 0.0
    label = f"{rate:.4g} req/s"
    if settings.duration_s and settings.requests is None:
        settings = replace(settings, duration_s=max(settings.duration_s, LEAST_REQUESTS / rate))
    report = await measure(settings, label)
    e2e = report.total.e2e
    if report.backlog is None and settings.duration_s and e2e and not report.partial and not limits.broken_by(report):
        settings = replace(settings, duration_s=max(LONGER * settings.duration_s, LEAST_LATENCIES * e2e.p99_ms / 1000))
        report = await measure(settings, f"{label}, {settings.duration_s:.0f} s")
    level = Level(label, rate, [report])
    doubtful = report.backlog is not None and report.backlog.grows and report.backlog.left_behind < PLAIN_GROWTH
    if doubtful and limits.outcome(report) is ProbeOutcome.BEYOND and not limits.broken_by(report):
        level.reports.append(await measure(settings, f"{label}, again"))
    return level


def figures(bracket: Bracket, levels: list[Level], limits: SloLimits) -> dict[str, Any]:
    """Return the capacity in requests per second; no figure exceeds the throughput that was measured."""
    known = [report.backlog.answered_per_s for level in levels for report in level.reports if report.backlog]
    return {
        "within_per_s": within_per_s(bracket, levels),
        "beyond_per_s": bracket.beyond,
        "saturated_per_s": max([*known, *(level.answered_per_s for level in levels)], default=None),
        "is_settled": bracket.is_settled,
        "limits": asdict(limits),
    }


def within_per_s(bracket: Bracket, levels: list[Level]) -> float | None:
    """Return the highest rate within the limits, capped by its measured throughput."""
    if bracket.within is None:
        return None
    backlogs = [level.reports[-1].backlog for level in levels if level.load == bracket.within]
    return min([bracket.within, *(backlog.answered_per_s for backlog in backlogs if backlog)])


def conclusion(bracket: Bracket, levels: list[Level], limits: SloLimits) -> str:
    """Return the conclusion as a sentence."""
    within = within_per_s(bracket, levels)
    if within is None:
        known = f"{bracket.beyond:.4g} requests per second are" if bracket.beyond else "No rate is known to be"
        return f"{known} beyond the limits, and no rate was found within them{_why_unknown(levels, limits)}."
    at_best = f"{within:.4g} requests per second are within the limits"
    if unknown := _why_unknown(levels, limits):
        return f"{at_best}{unknown}."
    if bracket.beyond is None:
        return f"{at_best}; the search ended before a rate beyond them was found."
    broken = next((limits.reasons(level.reports[-1]) for level in levels if level.load == bracket.beyond), [])
    rough = "" if bracket.is_settled else " (the search ended early: the interval is wide)"
    return f"{at_best}, {bracket.beyond:.4g} are not: {'; '.join(broken)}{rough}."


def _why_unknown(levels: list[Level], limits: SloLimits) -> str:
    for level in levels:
        report = level.reports[-1]
        if limits.outcome(report) is ProbeOutcome.UNKNOWN and not report.partial:
            if level.is_invalid:
                return f"; at {level.load:.4g} the load tester was saturated, so the server may take more"
            return f"; at {level.load:.4g} the probe was too short to see whether a queue grows: give more --duration-s"
    return ""
