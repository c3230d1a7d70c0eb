"""How many requests per second a server takes within limits: doubling until it does not, then halving the interval."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from loadtest.report import Report
from loadtest.settings import RunSettings
from loadtest.study import Level, Measured, Study


class Outcome(StrEnum):
    """What one probe says about a rate."""

    WITHIN = "within"
    BEYOND = "beyond"
    UNKNOWN = "unknown"
    """Interrupted, or the client gave out: no statement about the server."""


Probe = Callable[[float], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the whole of a level must keep; None is no limit."""

    p99_ttft_ms: float | None = None
    p99_itl_ms: float | None = None
    most_failed_share: float = 0.01

    def broken_by(self, report: Report, allowance_ms: float = 0.0) -> list[str]:
        """The limits that a report breaks by more than the allowance, as sentences."""
        total = report.total
        failed_share = 1 - total.succeeded / total.requests if total.requests else 1.0
        broken = []
        if failed_share > self.most_failed_share:
            broken.append(f"{failed_share:.1%} failed (limit {self.most_failed_share:.1%})")
        for name, found, limit in (("TTFT", total.ttft, self.p99_ttft_ms), ("ITL", total.itl, self.p99_itl_ms)):
            if limit is not None and found is not None and found.p99_ms > limit + allowance_ms:
                broken.append(f"p99 {name} {found.p99_ms:.1f} ms (limit {limit:g} ms)")
        return broken

    def outcome(self, report: Report) -> Outcome:
        """What a probe's report says.

        A late client makes latencies longer, never shorter: limits that are kept in spite of it are kept. Limits that
        are broken count as broken by the server only if they are without the client's lateness, too.
        """
        if report.partial:
            return Outcome.UNKNOWN
        if not self.broken_by(report):
            return Outcome.WITHIN
        lags = [lag.p99_ms for lag in (report.total.lag, report.client.loop_lag) if lag]
        allowance_ms = max(lags, default=0.0) if report.invalid else 0.0
        return Outcome.BEYOND if self.broken_by(report, allowance_ms) else Outcome.UNKNOWN


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
            case Outcome.WITHIN:
                within = rate
            case Outcome.BEYOND:
                beyond = rate
            case Outcome.UNKNOWN:
                return Bracket(within, beyond, is_settled=False)
    settled = within is not None and beyond is not None and beyond <= within * (1 + tolerance)
    return Bracket(within, beyond, is_settled=settled)


async def find_capacity(
    settings: RunSettings, limits: Limits, start: float, tolerance: float, most_probes: int, measure: Measured
) -> tuple[Study, Bracket]:
    """Probe rates until the capacity is known; the study's levels are the probes in order of rate."""
    levels: list[Level] = []

    async def probe(rate: float) -> Outcome:
        report = await measure(replace(settings, rate_per_s=rate), f"{rate:.4g} req/s")
        levels.append(Level(f"{rate:.4g} req/s", rate, [report]))
        return limits.outcome(report)

    bracket = await bracket_capacity(probe, start, tolerance, most_probes)
    levels.sort(key=lambda level: level.load or 0.0)
    return Study("capacity", levels, conclusion(bracket, levels, limits)), bracket


def conclusion(bracket: Bracket, levels: list[Level], limits: Limits) -> str:
    """The result in words."""
    if bracket.within is None:
        known = f"{bracket.beyond:.4g} requests per second are" if bracket.beyond else "No rate is known to be"
        return f"{known} beyond the limits, and no rate was found within them."
    at_best = f"{bracket.within:.4g} requests per second are within the limits"
    unknown = [level for level in levels if limits.outcome(level.reports[-1]) is Outcome.UNKNOWN]
    invalid = next((level for level in unknown if level.is_invalid), None)
    if invalid:
        return f"{at_best}; at {invalid.load:.4g} the load tester gave out, so the server may take more."
    if bracket.beyond is None:
        return f"{at_best}; the search ended before a rate beyond them was found."
    broken = next((limits.broken_by(level.reports[-1]) for level in levels if level.load == bracket.beyond), [])
    rough = "" if bracket.is_settled else " (the search ended early: the interval is wide)"
    return f"{at_best}, {bracket.beyond:.4g} are not: {'; '.join(broken)}{rough}."
