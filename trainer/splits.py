"""The rows of a run: what is trained on, what is held out, and where both came from."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.dataset import Report, check, shared_rows
from trainer.errors import DataError, Problem
from trainer.recipe import Recipe
from trainer.rows import Example


@dataclass(frozen=True)
class Part:
    """The rows of one side of a run, with the file they were read from."""

    path: Path
    sha256: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Split:
    """Both sides of a run; `valid` has no examples when nothing is held out."""

    train: Part
    valid: Part
    warnings: tuple[Problem, ...]


def read_split(recipe: Recipe) -> Split:
    """Read and check the files of a recipe; raises `DataError` with the problems of all of them."""
    train_rows: list[Example] = []
    train = check(recipe.train_path, keep=train_rows)
    if recipe.valid_path is None:
        _refuse(train.problems)
        kept, held_out = _hold_out(train_rows, recipe.valid_fraction, recipe.seed)
        return Split(_part(train, kept), _part(train, held_out), train.warnings)
    valid_rows: list[Example] = []
    valid = check(recipe.valid_path, keep=valid_rows)
    _refuse([*train.problems, *valid.problems])
    warnings = (*train.warnings, *valid.warnings, *shared_rows(train, valid))
    return Split(_part(train, train_rows), _part(valid, valid_rows), warnings)


def _hold_out(rows: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """A random split by conversation, so that copies of one row never stand on both sides."""
    distinct = sorted({row.digest for row in rows})
    wanted = min(max(1, round(fraction * len(distinct))), len(distinct) - 1) if fraction else 0
    chosen = set(random.Random(seed).sample(distinct, wanted))  # noqa: S311 - a seeded split, not a secret
    return [row for row in rows if row.digest not in chosen], [row for row in rows if row.digest in chosen]


def _part(report: Report, rows: Sequence[Example]) -> Part:
    return Part(report.path, report.sha256, tuple(rows))


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise DataError(problems)
