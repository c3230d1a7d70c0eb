"""Amounts of money: integer nano-USD, so that sums are exact, and the division of an amount into exact parts."""

from collections.abc import Hashable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TypeVar

NANO = 10**9
MOST_USD_PER_HOUR = 10_000
"""More than this an hour of no engine costs: a slip of the pen, such as a price in cents or for a whole year."""
HOUR_US = 3_600 * 10**6
DAY_US = 24 * HOUR_US
Key = TypeVar("Key", bound=Hashable)


def nano(usd: Decimal) -> int:
    """Dollars as whole nano-dollars."""
    return int((usd * NANO).to_integral_value(ROUND_HALF_EVEN))


def split(amount: int, weights: Mapping[Key, int]) -> dict[Key, int]:
    """Divide an amount by weights so that the parts add up to it: the largest remainders get the last units.

    All parts are 0 when all weights are; ties go by the key's text, so that the same division comes out every time.
    """
    total = sum(weights.values())
    if not total:
        return dict.fromkeys(weights, 0)
    parts = {key: amount * weight // total for key, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda key: (-(amount * weights[key] % total), str(key)))
    for key in by_remainder[: amount - sum(parts.values())]:
        parts[key] += 1
    return parts


def usd_text(nano_usd: int | None, digits: int | None = None) -> str:
    """An amount for people, with as many decimals as its size makes sense of; what is not known is `unpriced`."""
    return "unpriced" if nano_usd is None else dollars(Decimal(nano_usd) / NANO, digits)


def dollars(usd: Decimal | float, digits: int | None = None) -> str:
    """Dollars for people: $1,184.69, $0.000013, -$1.00."""
    size = abs(Decimal(usd))
    if digits is None:
        digits = 2 if size >= 1 else 6
    return f"{'-' if usd < 0 else ''}${size:,.{digits}f}"
