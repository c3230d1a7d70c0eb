"""What a check says: findings, each with a grade, and the verdict, which is the worst of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trainer.errors import Problem

Grade = Literal["green", "amber", "red"]
GREEN: Grade = "green"
AMBER: Grade = "amber"
RED: Grade = "red"
_BY_GRAVITY: tuple[Grade, ...] = (GREEN, AMBER, RED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for: its grade, how many rows it concerns, what it means with the fix, and where.

    Red must be mended before training; amber is for a person to look at. Of many places the first ones are kept.
    """

    grade: Grade
    name: str
    count: int
    message: str
    places: tuple[Problem, ...] = ()


def verdict(findings: Iterable[Finding]) -> Grade:
    """The worst grade; green when there is nothing."""
    return max((finding.grade for finding in findings), key=_BY_GRAVITY.index, default=GREEN)
