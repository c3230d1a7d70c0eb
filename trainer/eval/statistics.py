"""Confidence intervals by the paired bootstrap, and the number of items that a difference needs.

Every metric here is a function of sums over items (hits, class counts, n-gram counts). So one resample is one weight
per item, all resamples of all metrics and both sides of a difference use the same weights (which is what pairs them),
and a resample costs a matrix product.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 5_000
_CHUNK = 500
_KEPT_ITEMS = 2_000
_Z_95, _Z_POWER_80 = 1.959963984540054, 0.8416212335729143


@dataclass(frozen=True)
class MetricSample:
    """A metric before it is summed: `features` has one row per item, NaN where an item was not measured.

    `value_of` turns sums (one row per resample) and the number of items behind each into values.
    """

    features: Floats
    value_of: Callable[[Floats, Floats], Floats]

    @classmethod
    def mean_of(cls, values: "Floats | list[float]") -> "MetricSample":
        """A metric that is the mean of one number per item."""
        return cls(np.asarray(values, np.float64).reshape(-1, 1), _mean)

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """Which items have a value."""
        return np.asarray(np.isfinite(self.features).all(axis=1))

    def at(self, chosen: npt.NDArray[np.bool_]) -> "MetricSample":
        """The metric over some of the items."""
        return MetricSample(self.features[chosen], self.value_of)

    @property
    def value(self) -> float:
        """The metric over all its items."""
        features = self.features[self.measured]
        return float(self.value_of(features.sum(axis=0, keepdims=True), np.array([float(len(features))]))[0])

    @property
    def scores(self) -> Floats | None:
        """One number per item where the metric is their mean; None for a metric of the whole."""
        return self.features[:, 0] if self.value_of is _mean else None


@dataclass(frozen=True)
class MetricEstimate:
    """A value, its 95 % interval, how many items it is over and how many the least difference needs."""

    value: float
    interval: tuple[float, float]
    of: int
    items_needed: int = 0


class Bootstrap:
    """Resamples items; the same seed and number of items give the same resamples, whatever is summed over them."""

    def __init__(self, seed: int, resamples: int = RESAMPLES) -> None:
        self._seed, self._resamples = seed, resamples
        self._kept: dict[int, list[Floats]] = {}

    def estimate(self, series: MetricSample) -> MetricEstimate:
        """A metric with its interval: Wilson's for a share of items, the bootstrap's percentiles for all others."""
        series = series.at(series.measured)
        of = len(series.features)
        if not of:
            return MetricEstimate(0.0, (0.0, 1.0), 0)
        scores = series.scores
        if scores is not None and np.isin(scores, (0.0, 1.0)).all():
            return MetricEstimate(series.value, wilson(int(scores.sum()), of), of)
        drawn = [series.value_of(w @ series.features, w.sum(axis=1)) for w in self._weights(of)]
        return MetricEstimate(series.value, _interval(np.concatenate(drawn)), of)

    def difference(self, one: MetricSample, other: MetricSample, *, least_difference: float) -> MetricEstimate:
        """`one` minus `other`, paired by item, with the items that seeing a difference of `least_difference` takes."""
        both = one.measured & other.measured
        one, other, of = one.at(both), other.at(both), int(both.sum())
        if not of:
            return MetricEstimate(0.0, (-1.0, 1.0), 0, 0)
        drawn = []
        for weights in self._weights(of):
            items = weights.sum(axis=1)
            mine = one.value_of(weights @ one.features, items)
            drawn.append(mine - other.value_of(weights @ other.features, items))
        resampled, value = np.concatenate(drawn), one.value - other.value
        needed = items_needed(of * float(resampled.var()) + value**2, least_difference, of)
        return MetricEstimate(value, _interval(resampled), of, needed)

    def _weights(self, of: int) -> Iterable[Floats]:
        """Return how often each item is drawn, one row per resample, in chunks."""
        if of > _KEPT_ITEMS:
            return self._drawn(of)
        if of not in self._kept:
            self._kept[of] = list(self._drawn(of))
        return self._kept[of]

    def _drawn(self, of: int) -> Iterator[Floats]:
        random = np.random.default_rng(self._seed)
        rows = np.arange(_CHUNK)[:, None] * of
        for _ in range(math.ceil(self._resamples / _CHUNK)):
            places = random.integers(0, of, size=(_CHUNK, of)) + rows
            counts = np.bincount(places.ravel(), minlength=_CHUNK * of)
            yield counts.reshape(_CHUNK, of).astype(np.float64)


def _interval(resampled: Floats) -> tuple[float, float]:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(low), float(high)


def items_needed(discordance: float, least_difference: float, of: int) -> int:
    """Return the items for an interval that excludes 0 with a power of 80 % at `least_difference` (Connor 1987).

    `discordance` is the mean squared difference per item, for right and wrong the share of items on which both sides
    differ. Over `of` items it is taken to be 3/of at least: what was never seen may still be there.
    """
    if least_difference <= 0:
        return 0
    spread = max(discordance, 3 / of, least_difference)
    root = _Z_95 * math.sqrt(spread) + _Z_POWER_80 * math.sqrt(max(spread - least_difference**2, 0.0))
    return math.ceil((root / least_difference) ** 2)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, which stays sensible at 0 %, at 100 % and for few items."""
    z2 = _Z_95 * _Z_95
    centre = (hits + z2 / 2) / (of + z2)
    half = _Z_95 / (of + z2) * math.sqrt(hits * (of - hits) / of + z2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def _mean(sums: Floats, items: Floats) -> Floats:
    values: Floats = sums[:, 0] / items
    return values
