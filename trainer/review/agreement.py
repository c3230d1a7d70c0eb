"""How far raters agree: Krippendorff's alpha for nominal choices, for any number of raters and with gaps.

For two raters without gaps it is Scott's pi, corrected for few items; 1 is agreement throughout, 0 what chance gives.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    """`alpha` is None when there is nothing to tell chance from; `same` is the share of pairs of ratings that agree."""

    alpha: float | None
    same: float | None
    items: int


def agreement(units: Iterable[Sequence[Hashable]]) -> Agreement:
    """Agreement over units, each with the ratings that it got; units with fewer than two say nothing."""
    rated = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[Hashable] = Counter()
    agreeing = pairs = disagreeing = 0.0
    for counts in rated:
        size = counts.total()
        totals.update(counts)
        alike = sum(count * (count - 1) for count in counts.values())
        agreeing += alike / (size - 1)
        disagreeing += (size * (size - 1) - alike) / (size - 1)
        pairs += size
    if not rated:
        return Agreement(None, None, 0)
    n = totals.total()
    expected = (n * n - sum(count * count for count in totals.values())) / (n - 1)
    alpha = 1 - disagreeing / expected if expected else None
    return Agreement(alpha, agreeing / pairs, len(rated))
