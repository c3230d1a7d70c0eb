"""Scales of chart axes: linear or logarithmic, ending at round values, with as many ticks as there is room for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1, 2, 2.5, 5, 10)
_FLAT = 1e-12
_FEW_DECADES = 1.5
"""Up to so many decades a logarithmic axis has ticks between the powers of ten."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`, and the values of its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def at(self, value: float) -> float:
        """Place a value: 0 at the low end, 1 at the high end; values beyond an end lie on it."""
        low, high, here = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, here = math.log10(low), math.log10(high), math.log10(here)
        return (here - low) / (high - low)


def linear(low: float, high: float, intervals: int = 5) -> Scale:
    """Build a scale over at least `low` to `high` with steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not math.isfinite(low) or not math.isfinite(high):
        low, high = 0.0, 1.0
    if high - low <= _FLAT * max(abs(low), abs(high), 1.0):
        high = low + 1.0
    step = _round_up((high - low) / intervals)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(place * step for place in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def logarithmic(low: float, high: float, intervals: int = 6) -> Scale:
    """Build a scale over at least `low` to `high`, both above 0, with ticks at powers of ten."""
    first, last = math.log10(low), math.log10(max(high, low))
    if last - first <= _FEW_DECADES:
        mantissas: Sequence[float] = (1, 2, 5)
    else:
        mantissas = (1,)
    powers = range(math.floor(first + 1e-9) - 1, math.ceil(last - 1e-9) + 2)
    candidates = [mantissa * 10.0**power for power in powers for mantissa in mantissas]
    begin = max(one for one in candidates if one <= low * (1 + 1e-9))
    end = min(one for one in candidates if one >= high * (1 - 1e-9) and one > begin)
    ticks = [one for one in candidates if begin <= one <= end]
    every = math.ceil((len(ticks) - 1) / intervals)
    return Scale(begin, end, tuple(ticks[::every]), is_log=True)


def _round_up(step: float) -> float:
    """Return the smallest round step that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(one * power for one in _STEPS if one * power >= step * (1 - 1e-9))
