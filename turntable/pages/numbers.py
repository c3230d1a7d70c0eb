"""Numbers as text: grouped digits, units, money; the same in tables, tiles and on the axes of charts."""

import math
from dataclasses import dataclass

_COMPACT = ((1e9, "bn"), (1e6, "M"))


def number(value: float) -> str:
    """Write a number with three significant digits and grouped thousands, never with an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, min(9, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Unit:
    """How values are written: `factor` times the value, between `prefix` and `suffix`.

    `larger` holds (from which value, divisor, suffix) of larger units, the largest first.
    """

    suffix: str = ""
    prefix: str = ""
    factor: float = 1
    larger: tuple[tuple[float, float, str], ...] = ()
    is_signed: bool = False

    def text(self, value: float) -> str:
        """Write a value with its unit: `250 ms`, `10 s`, `$0.02`, `+5 points`."""
        size = abs(value) * self.factor
        divisor, suffix = next(
            ((divisor, suffix) for least, divisor, suffix in self.larger if size >= least), (1.0, self.suffix)
        )
        sign = "-" if value < 0 else "+" if self.is_signed and value > 0 else ""
        return f"{sign}{self.prefix}{self._digits(size / divisor)}{suffix}"

    def tick(self, value: float) -> str:
        """Write a value beside an axis: a long unit stands in the axis title instead."""
        short = self if len(self.suffix) <= _SHORT_SUFFIX else Unit("", self.prefix, self.factor, (), self.is_signed)
        return short.text(value)

    def in_title(self, label: str) -> str:
        """Write the title of an axis, with the unit where the ticks do not carry it."""
        return label if len(self.suffix) <= _SHORT_SUFFIX else f"{label}, {self.suffix.strip()}"

    def _digits(self, value: float) -> str:
        for least, letter in _COMPACT:
            if value >= least:
                return f"{number(value / least)}{letter}"
        if self.prefix == "$" and 0 < value < 1:
            cents, _, rest = f"{value:.{max(2, 1 - math.floor(math.log10(value)))}f}".partition(".")
            return f"{cents}.{rest[:2]}{rest[2:].rstrip('0')}"
        return number(value)


_SHORT_SUFFIX = 3
COUNT = Unit()
USD = Unit(prefix="$")
PERCENT = Unit("%", factor=100)
POINTS = Unit(" points", factor=100, is_signed=True)
"""Differences between shares, in percentage points."""
MILLISECONDS = Unit(" ms", larger=((1000, 1000, " s"),))
REQUESTS_PER_S = Unit(" req/s")
TOKENS_PER_S = Unit(" tokens/s")
