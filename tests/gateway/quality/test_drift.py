"""Drift: what is called so, and how seldom chance is."""

import math
import random
from collections import Counter

import pytest

from adapters.answer_profile import ANSWERED, COMPLETION, ENDED, FORMAT, INVALID, PROMPT, REFUSAL, REFUSED, STOP, VALID
from gateway.quality.drift import MIN_ANSWERS, Drift, findings

EVEN = {f"<={2**n}": 200 for n in range(10)}


def judged(measure: str, before: dict[str, int], now: dict[str, int]) -> tuple[Drift, float]:
    (found,) = findings({measure: before}, {measure: now})
    return found.drift, found.distance


def test_the_index_is_the_one_that_a_calculator_gives() -> None:
    drift, distance = judged("field:category", {"a": 5_000, "b": 5_000}, {"a": 7_000, "b": 3_000})
    assert distance == pytest.approx(0.2 * math.log(1.4) - 0.2 * math.log(0.6), abs=1e-4)
    assert drift is Drift.LOOK
    assert judged("field:category", {"a": 5_000, "b": 5_000}, {"a": 8_000, "b": 2_000})[0] is Drift.DRIFT
    assert judged(COMPLETION, EVEN, {bucket: 100 for bucket in EVEN})[0] is Drift.STEADY
    assert judged(PROMPT, EVEN, {">32768": 500})[0] is Drift.DRIFT


def test_chance_alone_is_seldom_called_drift() -> None:
    draw = random.Random(7)
    verdicts = Counter(judged(PROMPT, EVEN, Counter(draw.choices(list(EVEN), k=MIN_ANSWERS)))[0] for _ in range(1_000))
    assert verdicts[Drift.DRIFT] <= 10
    assert verdicts[Drift.STEADY] >= 940


@pytest.mark.parametrize(
    ("measure", "good", "bad", "before", "now", "drift"),
    [
        (FORMAT, VALID, INVALID, 0.99, 0.85, Drift.DRIFT),
        (FORMAT, VALID, INVALID, 0.99, 0.96, Drift.LOOK),
        (FORMAT, VALID, INVALID, 0.80, 0.95, Drift.STEADY),
        (ENDED, STOP, "length", 1.0, 0.7, Drift.DRIFT),
        (ENDED, STOP, "length", 1.0, 1.0, Drift.STEADY),
        (REFUSAL, ANSWERED, REFUSED, 1.0, 0.8, Drift.DRIFT),
        (REFUSAL, ANSWERED, REFUSED, 0.8, 1.0, Drift.STEADY),
    ],
)
def test_a_rate_drifts_when_it_is_worse_by_more_than_chance_and_five_points(
    measure: str, good: str, bad: str, before: float, now: float, drift: Drift
) -> None:
    def of(share: float, answers: int) -> dict[str, int]:
        return {good: round(share * answers), bad: round((1 - share) * answers)}

    assert judged(measure, of(before, 480), of(now, 1_000))[0] is drift


def test_few_answers_are_not_judged() -> None:
    assert judged(ENDED, {STOP: 480}, {"length": MIN_ANSWERS - 1})[0] is Drift.TOO_FEW
    assert judged(PROMPT, EVEN, {})[0] is Drift.TOO_FEW
