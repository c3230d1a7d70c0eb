"""How many rows a task needs, by its kind: the least to start with, and what is recommended.

The numbers are Precision AI Academy's table (2026) for fine-tuning by task type; copies do not count, and of a
classification each class has to reach them.
"""

import math
from dataclasses import dataclass
from typing import Literal

from trainer.data.labels import Balance, Labels
from trainer.data.verdict import AMBER, GREEN, RED, Finding, Grade

Task = Literal["style", "format", "vocabulary", "classification", "instructions"]
_MOST_SHORT = 0.9
_MOST_HELD_OUT = 0.5
VERDICT_ITEMS = 50
"""Held-out rows that a verdict of `turntable compare` takes, unless its task says otherwise."""


@dataclass(frozen=True, slots=True)
class Size:
    """Rows a task needs: at least `minimum`, better between `recommended` and `plenty`; per class when `per_class`."""

    minimum: int
    recommended: int
    plenty: int
    per_class: bool = False


SIZES: dict[Task, Size] = {
    "style": Size(100, 300, 500),
    "format": Size(200, 500, 1_000),
    "vocabulary": Size(500, 1_000, 3_000),
    "classification": Size(50, 200, 500, per_class=True),
    "instructions": Size(1_000, 5_000, 20_000),
}


def verdict_advice(held_out: int, rows: int) -> str | None:
    """What to do when too few of so many rows are held out for a verdict; None when there are enough."""
    if held_out >= VERDICT_ITEMS:
        return None
    told = f"{held_out:,} test rows, and a verdict of turntable compare takes {VERDICT_ITEMS} (min_items in [gate])"
    share = math.ceil(100 * VERDICT_ITEMS / rows) / 100 if rows else 1.0
    if share <= _MOST_HELD_OUT:
        return f"{told}; split with --test {share:g}, or collect {10 * VERDICT_ITEMS:,} rows for --test 0.1"
    least = 2 * VERDICT_ITEMS
    return f"{told}; collect {least - rows:,} more rows and split with --test 0.5, or set a lower min_items beforehand"


def guess_task(labels: Labels) -> Task | None:
    """The kind of task that outputs show by their form: classes, or JSON; nothing else can be told from outside."""
    if labels.objects >= _MOST_SHORT * labels.outputs > 0:
        return "format"
    return "classification" if any(balance.field is None for balance in labels.balances) else None


def judge_size(task: Task, rows: int, balances: tuple[Balance, ...]) -> Finding:
    """Red below the minimum, amber below what is recommended; `rows` are those left without copies."""
    size = SIZES[task]
    counts = dict(balances[0].counts) if size.per_class and balances else {"": rows}
    name, least = min(counts.items(), key=lambda item: item[1])
    what = f'rows of class "{name}"' if name else "different rows" + (" (no classes found)" if size.per_class else "")
    grade: Grade = RED if least < size.minimum else AMBER if least < size.recommended else GREEN
    each = " per class" if size.per_class else ""
    advice = {
        RED: f"collect at least {size.minimum:,}{each}, better {size.recommended:,} to {size.plenty:,}",
        AMBER: f"{size.recommended:,} to {size.plenty:,}{each} are recommended",
        GREEN: f"enough: {size.recommended:,} to {size.plenty:,}{each} are recommended",
    }[grade]
    return Finding(grade, "size", least, f"{least:,} {what} for a {task} task; {advice}")
