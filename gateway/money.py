"""Money: integer nano-USD, so that sums are exact; the exact division of an amount; and the texts of amounts."""

from collections.abc import Hashable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TypeVar

from turntable.console import usd as format_usd

NANO = 10**9
"""Nano-USD in a dollar."""
MOST_USD_PER_HOUR = 10_000
"""Upper bound of an engine's price, to catch slips such as a price in cents or for a whole year."""
Key = TypeVar("Key", bound=Hashable)


def nano(usd: Decimal) -> int:
    """Convert dollars to whole nano-USD, half to even."""
    return int((usd * NANO).to_integral_value(ROUND_HALF_EVEN))


def usd(nano_usd: int) -> Decimal:
    """Convert nano-USD to dollars, exactly."""
    return Decimal(nano_usd).scaleb(-9)


def split(amount: int, weights: Mapping[Key, int]) -> dict[Key, int]:
    """Divide an amount by weights so that the parts add up to it: the largest remainders get the last units.

    All parts are 0 when all weights are 0. Ties are broken by the key's text, so the division is deterministic.
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
    """Format an amount for people, with decimals according to its size; None is `unpriced`."""
    if nano_usd is None:
        return "unpriced"
    return format_usd(usd(nano_usd), (2 if abs(nano_usd) >= NANO else 6) if digits is None else digits)


def usd_exact(nano_usd: int) -> str:
    """Format an amount for JSON and headers with all nine decimals: 25.000000000."""
    return f"{usd(nano_usd):.9f}"


def usd_plain(nano_usd: int) -> str:
    """Format an amount for JSON as a person would type it, exactly: 25, 0.5."""
    return format(usd(nano_usd).normalize(), "f")
