"""How far a mean of repeats can be trusted: Student's t, without assuming that two sets vary alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np

LEVEL = 0.95
_GRID = 200_001


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean over repeats and the half width of its 95 % confidence interval, None with fewer than two repeats."""

    mean: float
    half_width: float | None
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "MeanEstimate":
        """The estimate from one value per repeat."""
        count = len(values)
        if count < 2:
            return cls(values[0], None, count)
        half_width = t_quantile(LEVEL, count - 1) * math.sqrt(variance(values) / count)
        return cls(fmean(values), half_width, count)


def difference(before: Sequence[float], after: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Mean change and half width of its confidence interval (Welch); None when a side has fewer than two values."""
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
    """The t within which a share `level` of Student's distribution lies, to both sides of 0."""
    # With t = sqrt(df) tan(angle) the density is proportional to cos(angle)^(df - 1), on a finite range.
    angles = np.linspace(0.0, math.pi / 2, _GRID)
    density = np.cos(angles) ** (degrees - 1)
    cumulated = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = float(np.interp(level, cumulated / cumulated[-1], angles))
    return math.sqrt(degrees) * math.tan(angle)
