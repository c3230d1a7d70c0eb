"""Intervals and sizes against reference implementations, published examples and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainer.eval.statistics import Bootstrap, MetricSample, items_needed, wilson


def approvals() -> tuple[MetricSample, MetricSample]:
    """Agresti's classic of paired proportions: 1,600 voters asked twice, 794 approve both times, 150 only first."""
    first = [1.0] * 794 + [1.0] * 150 + [0.0] * 86 + [0.0] * 570
    second = [1.0] * 794 + [0.0] * 150 + [1.0] * 86 + [0.0] * 570
    return MetricSample.mean_of(first), MetricSample.mean_of(second)


def test_a_paired_difference_has_the_published_interval() -> None:
    first, second = approvals()
    found = Bootstrap(seed=1).difference(first, second, least_difference=0.05)
    assert found.value == pytest.approx(0.04)
    assert found.interval == pytest.approx((0.021, 0.059), abs=0.0015)
    unpaired = 1.96 * np.sqrt(0.59 * 0.41 / 1600 + 0.55 * 0.45 / 1600)
    assert found.interval[1] - found.interval[0] < 1.2 * unpaired, "pairing makes the interval narrower"


def test_intervals_agree_with_scipys_bootstrap() -> None:
    random = np.random.default_rng(3)
    one = random.beta(4, 2, 150)
    other = np.clip(one - 0.05 + random.normal(0, 0.1, 150), 0, 1)
    ours = Bootstrap(seed=5, resamples=20_000).difference(
        MetricSample.mean_of(one), MetricSample.mean_of(other), least_difference=0.05
    )
    theirs = stats.bootstrap(
        (one, other),
        lambda a, b, axis=-1: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        random_state=7,
    ).confidence_interval
    assert ours.interval == pytest.approx((theirs.low, theirs.high), abs=0.0015)
    single = Bootstrap(seed=5, resamples=20_000).estimate(MetricSample.mean_of(one))
    alone = stats.bootstrap(
        (one,), np.mean, method="percentile", n_resamples=20_000, random_state=7
    ).confidence_interval
    assert single.interval == pytest.approx((alone.low, alone.high), abs=0.0015)


def test_the_items_needed_give_a_power_of_80_percent() -> None:
    discordance, difference = 0.30, 0.05
    needed = items_needed(discordance, difference, 10_000)
    assert needed == 940
    random = np.random.default_rng(11)
    cells = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    won, lost, _ = random.multinomial(needed, cells, size=20_000).T
    seen = np.abs(won - lost) / np.sqrt(won + lost) > 1.96
    assert seen.mean() == pytest.approx(0.80, abs=0.02)


def test_what_was_never_seen_may_still_be_there() -> None:
    same = MetricSample.mean_of([1.0] * 20)
    found = Bootstrap(seed=1).difference(same, same, least_difference=0.05)
    assert (found.value, found.interval) == (0.0, (0.0, 0.0))
    assert found.items_needed > 400


def test_the_same_seed_gives_the_same_interval_and_items_without_a_value_are_left_out_in_pairs() -> None:
    random = np.random.default_rng(2)
    one, other = random.random(40), random.random(40)
    one[3], other[7] = np.nan, np.nan
    found = Bootstrap(seed=9).difference(MetricSample.mean_of(one), MetricSample.mean_of(other), least_difference=0.05)
    assert found == Bootstrap(seed=9).difference(
        MetricSample.mean_of(one), MetricSample.mean_of(other), least_difference=0.05
    )
    assert found.of == 38
    both = ~(np.isnan(one) | np.isnan(other))
    assert found.value == pytest.approx((one - other)[both].mean())
    empty = Bootstrap(seed=1).estimate(MetricSample.mean_of([np.nan] * 3))
    assert (empty.of, empty.interval) == (0, (0.0, 1.0))


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)]
)
def test_wilson_intervals_match_published_values(hits: int, of: int, low: float, high: float) -> None:
    assert wilson(hits, of) == pytest.approx((low, high), abs=5e-4)


@given(st.integers(1, 500).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_intervals_hold_the_share_and_stay_between_0_and_1(case: tuple[int, int]) -> None:
    low, high = wilson(*case)
    assert 0 <= low <= case[0] / case[1] + 1e-12
    assert case[0] / case[1] - 1e-12 <= high <= 1
    assert low < high
