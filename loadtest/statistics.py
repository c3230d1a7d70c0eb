"""Percentiles of many measured times in bounded memory, and confidence intervals for means of repeated runs.

Samples are kept one by one up to a limit and counted in narrow logarithmic bins beyond it. Confidence intervals use
Student's t; two sets of repeats are compared by Welch's test, which does not assume that they vary alike.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, variance
from typing import Self

import numpy as np

LEVEL = 0.95
EXACT_SAMPLES = 100_000
"""Up to so many samples percentiles are exact; beyond, they are right within half a bin."""
BIN_RATIO = 1.005
LEAST_MS, MOST_MS = 1e-4, 1e8
_EDGES = np.concatenate(
    [[0.0], LEAST_MS * BIN_RATIO ** np.arange(int(np.log(MOST_MS / LEAST_MS) / np.log(BIN_RATIO)) + 2)]
)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Distribution of one metric in milliseconds; percentiles interpolate linearly between samples."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Self | None:
        """Return the distribution of the samples; None when there are none."""
        if not len(samples_ms):
            return None
        p50, p90, p95, p99 = np.percentile(samples_ms, (50, 90, 95, 99)).tolist()
        return cls(len(samples_ms), float(np.mean(samples_ms)), p50, p90, p95, p99, max(samples_ms))


@dataclass(slots=True)
class Samples:
    """Samples of one metric; mergeable across processes."""

    exact: "array[float]" = field(default_factory=lambda: array("d"))
    bins: "np.ndarray[tuple[int], np.dtype[np.int64]] | None" = None
    total_ms: float = 0.0
    max_ms: float = 0.0

    def add(self, samples_ms: Iterable[float]) -> None:
        """Add samples."""
        self.exact.extend(samples_ms)
        if len(self.exact) > EXACT_SAMPLES:
            self._count_exact()

    def merge(self, other: "Samples") -> None:
        """Merge the samples of another process."""
        if other.bins is not None:
            self._count_exact()
            assert self.bins is not None
            self.bins += other.bins
            self.total_ms += other.total_ms
            self.max_ms = max(self.max_ms, other.max_ms)
        self.add(other.exact)

    def distribution(self) -> Distribution | None:
        """Return the distribution; None without samples."""
        if self.bins is None:
            return Distribution.of(self.exact)
        self._count_exact()
        count = int(self.bins.sum())
        p50, p90, p95, p99 = (min(self.max_ms, self._binned_percentile(share)) for share in (0.5, 0.9, 0.95, 0.99))
        return Distribution(count, self.total_ms / count, p50, p90, p95, p99, self.max_ms)

    def shares(self) -> list[tuple[float, float]]:
        """Return points of the cumulative distribution: milliseconds, and the share of samples up to there."""
        if self.bins is None:
            ordered = sorted(self.exact)
            picked = {round(place * (len(ordered) - 1) / 100) for place in range(101)} if ordered else set()
            return [(ordered[place], (place + 1) / len(ordered)) for place in sorted(picked)]
        return [(self._binned_percentile(place / 100), place / 100) for place in range(101)]

    def _count_exact(self) -> None:
        values = np.frombuffer(self.exact, dtype=np.float64) if self.exact else np.zeros(0)
        counted = np.bincount(np.searchsorted(_EDGES, values, side="right") - 1, minlength=len(_EDGES))
        self.bins = counted if self.bins is None else self.bins + counted
        self.total_ms += float(values.sum())
        self.max_ms = max(self.max_ms, float(values.max(initial=0.0)))
        self.exact = array("d")

    def _binned_percentile(self, share: float) -> float:
        assert self.bins is not None
        cumulated = self.bins.cumsum()
        rank = share * (int(cumulated[-1]) - 1) + 1
        place = bisect_left(cumulated, rank)
        below = int(cumulated[place - 1]) if place else 0
        within = (rank - below) / int(self.bins[place])
        low = float(_EDGES[place])
        high = float(_EDGES[min(place + 1, len(_EDGES) - 1)])
        return low + within * (high - low)


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean over repeats and the half width of its 95 % confidence interval, None with fewer than two repeats."""

    mean: float
    half_width: float | None
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "MeanEstimate":
        """Return the estimate from one value per repeat."""
        count = len(values)
        if count < 2:
            return cls(values[0], None, count)
        half_width = t_quantile(LEVEL, count - 1) * math.sqrt(variance(values) / count)
        return cls(fmean(values), half_width, count)


def difference(before: Sequence[float], after: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Return mean change and half width of its confidence interval (Welch); None below two values a side."""
    if len(before) < 2 or len(after) < 2:
        return None
    change = fmean(after) - fmean(before)
    parts = [variance(side) / len(side) for side in (before, after)]
    if sum(parts) == 0:
        return change, 0.0
    degrees = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (before, after), strict=True)
    )
    return change, t_quantile(level, degrees) * math.sqrt(sum(parts))


def t_quantile(level: float, degrees: float) -> float:
    """Return the t between whose negative and itself a share `level` of Student's distribution lies.

    `degrees` of freedom need not be whole. scipy would do it, and is not installed with the gateway.
    """
    # The share beyond t to both sides is the incomplete beta function of degrees / (degrees + t^2).
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if _incomplete_beta(degrees / 2, 0.5, middle) < 1 - level:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees * (1 - high) / high)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    fraction, upper, lower, term = 1.0, 1.0, 0.0, 0
    while True:
        half, is_odd = divmod(term, 2)
        if term == 0:
            step = 1.0
        elif is_odd:
            step = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            step = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        lower = 1 / (1 + step * lower)
        upper = 1 + step / upper
        fraction *= upper * lower
        term += 1
        if abs(1 - upper * lower) < 1e-15 and term > 1:
            break
    log_scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_scale) * (fraction - 1) / a
