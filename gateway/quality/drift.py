"""Counts of what live answers were like, by version and day: all that is kept of a watched answer.

How far live answers are from those learnt from, measure by measure, and from where on that is called drift.

Lengths and class mixes are compared by the population stability index, PSI = sum of (live - baseline) x ln(live /
baseline) over the buckets' shares. By the usual reading below 0.1 is steady, up to 0.25 worth a look, above it drift.
Few answers give a PSI by chance alone, about chi-squared with one degree less than buckets, times (1/live +
1/baseline): what lies within its mean plus two standard deviations is never called drift. Rates drift when they are
more than five points worse, and that by more than chance (two proportions, 95 %).
"""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, delete, func, select

from adapters.answer_profile import COMPLETION, ENDED, FIELD, FORMAT, PROMPT, REFUSAL, REFUSED, STOP, VALID, Counts
from gateway.database import upsert
from gateway.quality.tables import watched_answers

Key = tuple[str, str, int, str, str]
"""Adapter, digest, day, measure, bucket."""
_KEY = ("adapter", "digest", "day", "measure", "bucket")
_KEPT_DAYS = 400


def today() -> int:
    """The day in UTC, counted from the epoch."""
    return int(time.time()) // 86_400


class AnswerProfileStore:
    """The table of counts, to which several gateways may add; methods block."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def add(self, counts: Mapping[Key, int]) -> None:
        """Add to what is there."""
        if not counts:
            return
        # In one order everywhere, or two gateways could wait for each other's rows.
        rows = [{**dict(zip(_KEY, key, strict=True)), "answers": number} for key, number in sorted(counts.items())]
        with self._database.begin() as connection:
            connection.execute(upsert(connection.dialect.name, watched_answers, add=["answers"]), rows)

    def read(self, adapter: str, digest: str, since_day: int) -> dict[str, Counter[str]]:
        """Buckets of every measure of a version since a day, that day included."""
        table = watched_answers.c
        query = (
            select(table.measure, table.bucket, func.sum(table.answers).label("answers"))
            .where(table.adapter == adapter, table.digest == digest, table.day >= since_day)
            .group_by(table.measure, table.bucket)
        )
        found: dict[str, Counter[str]] = {}
        with self._database.connect() as connection:
            for row in connection.execute(query):
                found.setdefault(row.measure, Counter())[row.bucket] = int(row.answers)
        return found

    def prune(self) -> None:
        """Forget what is older than a year and a bit."""
        with self._database.begin() as connection:
            connection.execute(delete(watched_answers).where(watched_answers.c.day < today() - _KEPT_DAYS))


MIN_ANSWERS = 100
"""Below this nothing is judged."""
LOOK_PSI, DRIFT_PSI = 0.1, 0.25
WORSE_BY = 0.05
_Z_95 = 1.959963984540054
_HALF = 0.5  # added to every bucket, so that an empty one has a share


class Drift(StrEnum):
    """What a measure says."""

    STEADY = "steady"
    LOOK = "look"
    DRIFT = "drift"
    TOO_FEW = "too_few"


@dataclass(frozen=True, slots=True)
class Finding:
    """One measure of live answers beside the baseline's.

    `distance` is a PSI, or by how much a rate is worse (negative when it is better); `by_chance` is how much of it may
    be chance. `live` and `baseline` are rates; None for mixes.
    """

    measure: str
    drift: Drift
    answers: int
    distance: float
    by_chance: float
    live: float | None = None
    baseline: float | None = None

    def document(self) -> dict[str, Any]:
        """As JSON, rounded."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def findings(baseline: Counts, live: Counts) -> list[Finding]:
    """Every measure of the baseline, judged by what was seen live."""
    found = []
    for measure, before in sorted(baseline.items()):
        now = live.get(measure, {})
        if measure in _GOOD:
            found.append(_rate(measure, before, now))
        elif measure in (PROMPT, COMPLETION) or measure.startswith(FIELD):
            found.append(_mix(measure, before, now))
    return found


# Of these measures the share of one bucket counts: what is good about an answer, or what is not.
_GOOD = {ENDED: (STOP, 1), FORMAT: (VALID, 1), REFUSAL: (REFUSED, -1)}


def _mix(measure: str, before: Mapping[str, int], now: Mapping[str, int]) -> Finding:
    buckets = before.keys() | now.keys()
    n_before, n_now = sum(before.values()), sum(now.values())
    if n_now < MIN_ANSWERS:
        return Finding(measure, Drift.TOO_FEW, n_now, 0.0, 0.0)
    distance, room = 0.0, _HALF * len(buckets)
    for bucket in buckets:
        was = (before.get(bucket, 0) + _HALF) / (n_before + room)
        is_now = (now.get(bucket, 0) + _HALF) / (n_now + room)
        distance += (is_now - was) * math.log(is_now / was)
    freedom = max(len(buckets) - 1, 1)
    by_chance = (freedom + 2 * math.sqrt(2 * freedom)) * (1 / n_now + 1 / n_before)
    drift = Drift.STEADY
    if distance > max(LOOK_PSI, by_chance):
        drift = Drift.DRIFT if distance > DRIFT_PSI else Drift.LOOK
    return Finding(measure, drift, n_now, distance, by_chance)


def _rate(measure: str, before: Mapping[str, int], now: Mapping[str, int]) -> Finding:
    bucket, sign = _GOOD[measure]
    n_before, n_now = sum(before.values()), sum(now.values())
    if n_now < MIN_ANSWERS:
        return Finding(measure, Drift.TOO_FEW, n_now, 0.0, 0.0)
    was, is_now = before.get(bucket, 0) / n_before, now.get(bucket, 0) / n_now
    pooled = (before.get(bucket, 0) + now.get(bucket, 0)) / (n_before + n_now)
    by_chance = _Z_95 * math.sqrt(pooled * (1 - pooled) * (1 / n_before + 1 / n_now))
    worse = sign * (was - is_now)
    drift = Drift.STEADY
    if worse > by_chance:
        drift = Drift.DRIFT if worse > WORSE_BY else Drift.LOOK
    return Finding(measure, drift, n_now, worse, by_chance, is_now, was)
