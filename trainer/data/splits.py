"""The rows of a run: what is trained on, what is held out, and where both came from."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.dataset import Report, check, shared_rows
from trainer.data.near_duplicates import DEFAULT_SIMILARITY, fingerprint, near_duplicate_clusters
from trainer.data.schema import Example
from trainer.errors import DataError, Problem
from trainer.training.recipe import Recipe


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
    """A random split by clusters of near copies, so that no row is scored that is all but learnt by heart."""
    if not fraction or len(rows) < 2:
        return list(rows), []
    clusters = _clusters(rows)
    wanted = max(1, round(fraction * sum(map(len, clusters.values()))))
    sampled = random.Random(seed).sample(sorted(clusters), min(wanted, len(clusters) - 1))  # noqa: S311 - no secret
    chosen = set[bytes]()
    for first in sampled:
        if not chosen or len(chosen) + len(clusters[first]) <= wanted:
            chosen |= clusters[first]
    return [row for row in rows if row.digest not in chosen], [row for row in rows if row.digest in chosen]


def _clusters(rows: Sequence[Example]) -> dict[bytes, set[bytes]]:
    """Digests of the different rows of each cluster, by the least of them."""
    marks = [fingerprint(row) for row in rows]
    labels = near_duplicate_clusters(
        [mark.shingles for mark in marks], [mark.near for mark in marks], DEFAULT_SIMILARITY
    )
    digests: dict[int, set[bytes]] = {}
    for row, label in zip(rows, labels, strict=True):
        digests.setdefault(label, set()).add(row.digest)
    return {min(members): members for members in digests.values()}


def _part(report: Report, rows: Sequence[Example]) -> Part:
    return Part(report.path, report.sha256, tuple(rows))


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise DataError(problems)
