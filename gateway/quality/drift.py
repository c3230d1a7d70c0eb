"""Drift: distance of live answers from the baseline of the training data, measure by measure, and its thresholds.

Lengths and class mixes are compared by the population stability index, PSI = sum of (live - baseline) x ln(live /
baseline) over the buckets' shares. By convention a PSI below 0.1 is steady, up to 0.25 a warning, above it drift.
Few answers give a PSI by chance alone, about chi-squared with one degree less than buckets, times (1/live +
1/baseline): a PSI within its mean plus two standard deviations is never called drift. Rates drift when they are more
than five points worse, and that by more than chance (two proportions, 95 %).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from adapters.answer_profile import COMPLETION, ENDED, FIELD, FORMAT, PROMPT, REFUSAL, REFUSED, STOP, VALID, Counts

MIN_ANSWERS = 100
"""With fewer live answers the drift of a measure is TOO_FEW."""
LOOK_PSI, DRIFT_PSI = 0.1, 0.25
WORSE_BY = 0.05
_Z_95 = 1.959963984540054
_HALF = 0.5  # added to every bucket, so that an empty one has a share
_RATES = {ENDED: (STOP, 1), FORMAT: (VALID, 1), REFUSAL: (REFUSED, -1)}
"""Measures of which the share of one bucket counts, and whether more of it is better (1) or worse (-1)."""


class Drift(StrEnum):
    """Verdict on one measure."""

    STEADY = "steady"
    LOOK = "look"
    DRIFT = "drift"
    TOO_FEW = "too_few"


@dataclass(frozen=True, slots=True)
class DriftFinding:
    """One measure of live answers against the baseline.

    `distance` is a PSI, or by how much a rate is worse (negative when it is better); `by_chance` is the distance that
    chance alone explains. `live` and `baseline` are rates; None for mixes.
    """

    measure: str
    drift: Drift
    answers: int
    distance: float
    by_chance: float
    live: float | None = None
    baseline: float | None = None

    def document(self) -> dict[str, Any]:
        """Return the finding as JSON, numbers rounded."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def findings(baseline: Counts, live: Counts) -> list[DriftFinding]:
    """Compare the live answers with every measure of the baseline."""
    found = []
    for measure, before in sorted(baseline.items()):
        now = live.get(measure, {})
        if measure in _RATES:
            found.append(_rate(measure, before, now))
        elif measure in (PROMPT, COMPLETION) or measure.startswith(FIELD):
            found.append(_mix(measure, before, now))
    return found


def _mix(measure: str, before: Mapping[str, int], now: Mapping[str, int]) -> DriftFinding:
    buckets = before.keys() | now.keys()
    n_before, n_now = sum(before.values()), sum(now.values())
    if n_now < MIN_ANSWERS:
        return DriftFinding(measure, Drift.TOO_FEW, n_now, 0.0, 0.0)
    distance, added = 0.0, _HALF * len(buckets)
    for bucket in buckets:
        was = (before.get(bucket, 0) + _HALF) / (n_before + added)
        is_now = (now.get(bucket, 0) + _HALF) / (n_now + added)
        distance += (is_now - was) * math.log(is_now / was)
    freedom = max(len(buckets) - 1, 1)
    by_chance = (freedom + 2 * math.sqrt(2 * freedom)) * (1 / n_now + 1 / n_before)
    drift = Drift.STEADY
    if distance > max(LOOK_PSI, by_chance):
        drift = Drift.DRIFT if distance > DRIFT_PSI else Drift.LOOK
    return DriftFinding(measure, drift, n_now, distance, by_chance)


def _rate(measure: str, before: Mapping[str, int], now: Mapping[str, int]) -> DriftFinding:
    bucket, sign = _RATES[measure]
    n_before, n_now = sum(before.values()), sum(now.values())
    if n_now < MIN_ANSWERS:
        return DriftFinding(measure, Drift.TOO_FEW, n_now, 0.0, 0.0)
    was, is_now = before.get(bucket, 0) / n_before, now.get(bucket, 0) / n_now
    pooled = (before.get(bucket, 0) + now.get(bucket, 0)) / (n_before + n_now)
    by_chance = _Z_95 * math.sqrt(pooled * (1 - pooled) * (1 / n_before + 1 / n_now))
    worse = sign * (was - is_now)
    drift = Drift.STEADY
    if worse > by_chance:
        drift = Drift.DRIFT if worse > WORSE_BY else Drift.LOOK
    return DriftFinding(measure, drift, n_now, worse, by_chance, is_now, was)
