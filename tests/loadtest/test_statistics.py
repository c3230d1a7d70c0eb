"""Many samples in little memory."""

import numpy as np
import pytest

from loadtest.statistics import EXACT_SAMPLES, Distribution, Samples


def lognormal(count: int, seed: int = 0) -> list[float]:
    values: list[float] = np.random.default_rng(seed).lognormal(3, 1, count).tolist()
    return values


def filled(values: list[float]) -> Samples:
    samples = Samples()
    for start in range(0, len(values), 1000):
        samples.add(values[start : start + 1000])
    return samples


def test_beyond_the_limit_memory_stays_and_percentiles_are_right_within_half_a_percent() -> None:
    values = lognormal(3 * EXACT_SAMPLES)
    samples = filled(values)
    found, exact = samples.distribution(), Distribution.of(values)
    assert len(samples.exact) <= EXACT_SAMPLES
    assert samples.bins is not None
    assert found is not None
    assert exact is not None
    assert (found.count, found.max_ms) == (exact.count, exact.max_ms)
    assert found.mean_ms == pytest.approx(exact.mean_ms)
    for name in ("p50_ms", "p90_ms", "p95_ms", "p99_ms"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=0.005)


def test_zeros_stay_zeros_when_counted() -> None:
    samples = filled([0.0] * (EXACT_SAMPLES + 1000))
    found = samples.distribution()
    assert found == Distribution(EXACT_SAMPLES + 1000, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(("few", "many"), [(10, 20), (10, EXACT_SAMPLES + 1), (EXACT_SAMPLES + 1, EXACT_SAMPLES + 2)])
def test_two_sets_add_up_to_the_set_of_both(few: int, many: int) -> None:
    left, right = lognormal(few, 1), lognormal(many, 2)
    for first, second in ((left, right), (right, left)):
        merged = filled(first)
        merged.merge(filled(second))
        found, exact = merged.distribution(), Distribution.of(left + right)
        assert found is not None
        assert exact is not None
        assert found.count == exact.count
        assert found.p99_ms == pytest.approx(exact.p99_ms, rel=0.005)
        assert found.mean_ms == pytest.approx(exact.mean_ms)


def test_the_cumulative_shares_rise_to_one() -> None:
    shares = filled([1.0, 2.0, 4.0]).shares()
    assert shares == [(1.0, pytest.approx(1 / 3)), (2.0, pytest.approx(2 / 3)), (4.0, 1.0)]
    binned = filled(lognormal(EXACT_SAMPLES + 1)).shares()
    assert binned == sorted(binned)
    assert Samples().shares() == []
