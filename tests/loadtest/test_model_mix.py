"""Shares of the models, by their statistics and by their change over the test."""

from collections import Counter
from itertools import islice

import pytest

from loadtest.errors import InvalidWorkloadError
from loadtest.model_mix import model_sequence

MODELS = [f"m{number}" for number in range(50)]


def shares(text: str, models: list[str], requests: int = 50_000) -> list[float]:
    counted = Counter(islice(model_sequence(text, models, 1), requests))
    return [counted[model] / requests for model in models]


def test_weights_are_the_shares() -> None:
    assert shares("weights:5,3,2,0", MODELS[:4]) == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=0.01)


def test_zipf_is_a_power_law_and_geometric_is_not() -> None:
    zipf = shares("zipf:1.0", MODELS)
    assert zipf[0] / zipf[9] == pytest.approx(10, rel=0.1)
    assert sum(zipf[:5]) == pytest.approx(0.51, abs=0.01)
    geometric = shares("geometric:1.5", MODELS)
    assert geometric[0] / geometric[1] == pytest.approx(1.5, rel=0.05)
    assert sum(geometric[:5]) == pytest.approx(0.87, abs=0.01)


def test_drift_moves_the_favourite_on() -> None:
    drawn = list(islice(model_sequence("drift:2.0:1000", MODELS[:3], 1), 3000))
    favourites = [Counter(drawn[start : start + 1000]).most_common(1)[0][0] for start in (0, 1000, 2000)]
    assert favourites == MODELS[:3]


def test_with_churn_models_come_and_go() -> None:
    drawn = list(islice(model_sequence("churn:0:500:2", MODELS[:4], 1), 2000))
    present = [set(drawn[start : start + 500]) for start in range(0, 2000, 500)]
    assert present == [{"m0", "m1"}, {"m1", "m2"}, {"m2", "m3"}, {"m3", "m0"}]


@pytest.mark.parametrize(
    "text",
    ["", "fair", "uniform:1", "weights:", "weights:1,2", "weights:1,2,-1", "weights:0,0,0", "zipf", "zipf:x", "zipf:-1",
     "zipf:nan", "geometric:0", "drift:1", "drift:1:0", "churn:1:10:4", "churn:1:10:0", "weights:1,inf,1"],
)  # fmt: skip
def test_a_popularity_of_no_sense_is_refused_with_its_forms(text: str) -> None:
    with pytest.raises(InvalidWorkloadError, match=r"--popularity must be uniform, .* for 3 models, not"):
        model_sequence(text, MODELS[:3], 1)
