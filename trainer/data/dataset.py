"""The rows of a file that is trained on, in memory; a file with one problem is not trained on.

Exact duplicates and rows shared by two files are warnings: they do no harm to the run but they do to what its numbers
mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.data.loaders import Reader
from trainer.data.schema import Example, Pair, parse_row
from trainer.errors import DataError, Problem


@dataclass(frozen=True)
class Dataset:
    """The conversations of one file that passed every check; `sha256` is of the file's bytes."""

    path: Path
    sha256: str
    examples: tuple[Example, ...]
    warnings: tuple[Problem, ...]


@dataclass(frozen=True)
class PairDataset:
    """The preference pairs of one file that passed every check; `sha256` is of the file's bytes."""

    path: Path
    sha256: str
    pairs: tuple[Pair, ...]
    warnings: tuple[Problem, ...]


@dataclass(frozen=True)
class Report:
    """What `check` found in one file. `rows` counts all rows, good or bad; `first_lines` maps digests to lines."""

    path: Path
    rows: int
    sha256: str
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    first_lines: Mapping[bytes, int]


def read_dataset(path: Path) -> Dataset:
    """All conversations of a file, in order; raises `DataError` with every problem when there is one."""
    examples: list[Example] = []
    report = check(path, keep=examples)
    if report.problems:
        raise DataError(report.problems)
    return Dataset(path, report.sha256, tuple(examples), report.warnings)


def read_pairs(path: Path) -> PairDataset:
    """All preference pairs of a file, in order; raises `DataError` with every problem when there is one."""
    pairs: list[Pair] = []
    report = _check(path, [], pairs)
    if report.problems:
        raise DataError(report.problems)
    return PairDataset(path, report.sha256, tuple(pairs), report.warnings)


def check(path: Path, *, keep: list[Example] | None = None) -> Report:
    """Check a file of conversations in one pass, appending its good rows to `keep` when given."""
    return _check(path, [] if keep is None else keep, None)


def shared_rows(one: Report, other: Report) -> list[Problem]:
    """A warning for each conversation of `other` that is in `one` too."""
    shared = sorted((line, digest) for digest, line in other.first_lines.items() if digest in one.first_lines)
    return [
        Problem(str(other.path), line, f"is also in {one.path}:{one.first_lines[digest]}") for line, digest in shared
    ]


def _check(path: Path, examples: list[Example], pairs: list[Pair] | None) -> Report:
    """One pass; `pairs` is None when conversations are wanted."""
    reader = Reader(path)
    problems, warnings, first_lines = list[Problem](), list[Problem](), dict[bytes, int]()
    for found in reader.read():
        if isinstance(found, Problem):
            problems.append(found)
            continue
        row = parse_row(found.line, found.fields)
        if isinstance(row, Pair) and pairs is not None:
            pairs.append(row)
        elif isinstance(row, Example) and pairs is None:
            examples.append(row)
        else:
            problems.append(Problem(str(path), found.line, _other_kind(row)))
        first = first_lines.setdefault(bytes.fromhex(row.row_id), found.line)
        if first != found.line:
            warnings.append(Problem(str(path), found.line, f"holds the same messages as line {first}"))
    problems.sort(key=lambda problem: problem.line or 0)
    return Report(path, reader.rows, reader.sha256, tuple(problems), tuple(warnings), first_lines)


def _other_kind(row: Example | Pair) -> str:
    if isinstance(row, Pair):
        return "is a preference pair, and conversations are wanted here; keep pairs in a file of their own"
    return "is a conversation, and preference pairs are wanted here; keep conversations in a file of their own"
