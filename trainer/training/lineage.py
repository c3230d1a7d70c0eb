"""Data lineage: find the runs, and so the adapters, that read a row, to answer deletion requests."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.manifest import TRAINING_FILE
from trainer.data.loaders import Reader
from trainer.data.schema import row_id
from trainer.errors import DataError, Problem, RunError
from trainer.training.artifacts import ROWS_FILE
from trainer.training.run_directory import RUNS_FOLDER, files_in_runs

_ID_DIGITS = 64
_SHORTEST_PREFIX = 8


@dataclass(frozen=True, slots=True)
class RowUse:
    """A run that read the row; `part` is train, valid (evaluated only), dropped (too long, never used), or initial:
    the run began from an adapter that had read it.

    `digest` is the adapter's, the one in refs such as `name@digest12`.
    """

    run: str
    name: str
    digest: str
    part: str
    file: str
    line: int


def resolve_row(text: str) -> str:
    """Return the row id for an id, the first 8 or more digits of one, or FILE:LINE; raises `RunError`."""
    file, colon, line = text.rpartition(":")
    if colon and line.isdigit():
        return _id_at(Path(file), int(line))
    if _SHORTEST_PREFIX <= len(text) <= _ID_DIGITS and all(digit in "0123456789abcdef" for digit in text.lower()):
        return text.lower()
    raise RunError(f"{text} is not a row; give its id (at least {_SHORTEST_PREFIX} digits) or FILE:LINE.")


@dataclass(frozen=True, slots=True)
class RowSearch:
    """The uses of a row, with the folders and the number of runs that were searched."""

    found: tuple[RowUse, ...]
    folders: tuple[Path, ...]
    runs: int


def find_row_uses(row: str, data_dir: Path, others: Sequence[Path] = ()) -> RowSearch:
    """Find every run that read the row, in the data directory and at or below the other folders.

    Interrupted runs are not searched: they leave no adapter. Raises `RunError` when another folder does not exist.
    """
    if missing := [folder for folder in others if not folder.is_dir()]:
        raise RunError(f"{missing[0]} is not a folder; give the folder of a run, or one that contains runs.")
    paths = set(files_in_runs(data_dir / RUNS_FOLDER, ROWS_FILE))
    for folder in others:
        paths |= set(folder.rglob(ROWS_FILE))
    runs = {path.resolve(): path for path in sorted(paths)}.values()
    found = [use for path in runs for use in _in_run(path, row)]
    found += _in_descendants(runs, found)
    return RowSearch(tuple(found), (data_dir / RUNS_FOLDER, *others), len(runs))


def _in_descendants(runs: Collection[Path], found: Sequence[RowUse]) -> Iterator[RowUse]:
    """Yield the runs that began from an adapter that read the row, directly or through others."""
    facts = {path: json.loads((path.parent / TRAINING_FILE).read_bytes()) for path in runs} if found else {}
    uses = {use.digest: use for use in found if use.part != "dropped"}
    new = dict(uses)
    while new:
        children = [
            (path.parent.name, one["name"], one["digest"], new[initial["digest"]])
            for path, one in facts.items()
            if (initial := one.get("initial_adapter")) and initial["digest"] in new and one["digest"] not in uses
        ]
        new = {digest: RowUse(run, name, digest, "initial", use.file, use.line) for run, name, digest, use in children}
        uses |= new
        yield from new.values()


def _in_run(path: Path, row: str) -> Iterator[RowUse]:
    facts = None
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if row not in line:
                continue
            seen = json.loads(line)
            if seen["row_id"].startswith(row):
                facts = facts or json.loads((path.parent / TRAINING_FILE).read_bytes())
                where = (seen["part"], seen["file"], seen["line"])
                yield RowUse(path.parent.name, facts["name"], facts["digest"], *where)


def _id_at(path: Path, line: int) -> str:
    for found in Reader(path).read():
        if isinstance(found, Problem):
            if found.line in (None, line):
                raise DataError([found])
        elif found.line == line:
            return row_id(found.fields)
    raise RunError(f"{path} has no row at line {line}; check the number.")
