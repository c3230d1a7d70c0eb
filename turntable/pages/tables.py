"""What templates show beside charts: tables, key figures."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PageTable:
    """Rows under a head. Columns are figures and right-aligned, except `text` ones; `totals` are rows that stand out.

    Units belong in the head.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Collection[int] = (0,)
    totals: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure: what it is, its value, and what it is to be seen against."""

    name: str
    value: str
    note: str = ""
