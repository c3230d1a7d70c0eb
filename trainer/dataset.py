"""Chat data in JSON Lines, read as a stream: every problem of a file is found in one pass and given with its line.

A file with one problem is not trained on. Exact duplicates and rows shared by two files are warnings: they do no harm
to the run but they do to what its numbers mean.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError, Problem
from trainer.rows import Example, check_row, foreign_shape

SHAPE_NAMES = {
    "alpaca": "Alpaca (instruction, input, output)",
    "sharegpt": "ShareGPT (conversations)",
    "preference": "preference (chosen, rejected)",
}
_SNIFFED_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Dataset:
    """The rows of one file that passed every check; `sha256` is of the file's bytes."""

    path: Path
    sha256: str
    examples: tuple[Example, ...]
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
    """All rows of a file, in order; raises `DataError` with every problem when there is one."""
    examples: list[Example] = []
    report = check(path, keep=examples)
    if report.problems:
        raise DataError(report.problems)
    return Dataset(path, report.sha256, tuple(examples), report.warnings)


def check(path: Path, *, keep: list[Example] | None = None) -> Report:
    """Check a file of any size in one pass, appending its good rows to `keep` when given."""
    reader = _Reader(path)
    problems, warnings, first_lines = list[Problem](), list[Problem](), dict[bytes, int]()
    for found in reader.read():
        if isinstance(found, Problem):
            problems.append(found)
            continue
        first = first_lines.setdefault(found.digest, found.line)
        if first != found.line:
            warnings.append(Problem(str(path), found.line, f"holds the same messages as line {first}"))
        if keep is not None:
            keep.append(found)
    problems.sort(key=lambda problem: problem.line or 0)
    return Report(path, reader.rows, reader.sha256, tuple(problems), tuple(warnings), first_lines)


def shared_rows(one: Report, other: Report) -> list[Problem]:
    """A warning for each conversation of `other` that is in `one` too."""
    shared = sorted((line, digest) for digest, line in other.first_lines.items() if digest in one.first_lines)
    return [
        Problem(str(other.path), line, f"is also in {one.path}:{one.first_lines[digest]}") for line, digest in shared
    ]


class _Reader:
    """One pass over one file; `rows` and `sha256` are complete once `read` is exhausted."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._path = path
        self._hash = hashlib.sha256()
        self._foreign: dict[str, list[int]] = {}

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def read(self) -> Iterator[Example | Problem]:
        try:
            yield from self._read()
        except OSError as error:
            yield self._problem(None, f"cannot be read ({error.strerror}); check the path")

    def _read(self) -> Iterator[Example | Problem]:
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                self._hash.update(raw)
                text = raw.removeprefix(b"\xef\xbb\xbf").strip()
                if not text:
                    continue
                if self.rows == 0 and (problem := self._not_lines(text, number)):
                    self._hash.update(file.read())
                    yield problem
                    return
                self.rows += 1
                yield from self._read_row(text, number)
        if self.rows == 0:
            yield self._problem(None, "holds no rows; write one JSON object per line")
        yield from self._foreign_problems()

    def _read_row(self, raw: bytes, line: int) -> Iterator[Example | Problem]:
        try:
            row = _parse(raw)
        except ValueError as error:
            yield self._problem(line, str(error))
            return
        if shape := foreign_shape(row):
            self._foreign.setdefault(shape, []).append(line)
            return
        complaints = list(check_row(row))
        yield from (self._problem(line, complaint) for complaint in complaints)
        if not complaints:
            yield Example.of(line, row["messages"])

    def _not_lines(self, first: bytes, line: int) -> Problem | None:
        """The problem of a file that is JSON but not one object per line, told from its first line."""
        if first == b"{":
            return self._problem(line, "one object is spread over several lines; write each object on one line")
        if not first.startswith(b"["):
            return None
        shape = sniff_array(self._path)
        kind = f" of {SHAPE_NAMES.get(shape, shape)} rows" if shape else ""
        return self._problem(
            line, f"the file is one JSON array{kind}, not one object per line; {self._advice(shape or 'messages')}"
        )

    def _foreign_problems(self) -> Iterator[Problem]:
        for shape, lines in self._foreign.items():
            more = f" (and {len(lines) - 1} more rows)" if len(lines) > 1 else ""
            yield self._problem(lines[0], f"is a row in {SHAPE_NAMES[shape]} shape{more}; {self._advice(shape)}")

    def _advice(self, shape: str) -> str:
        if shape == "preference":
            return "pairs are not trained on; write the chosen answer into a row of messages"
        out = f"{self._path.stem}.messages.jsonl"
        return f"convert it: turntable data prepare --from {shape} {self._path} --out {out}"

    def _problem(self, line: int | None, message: str) -> Problem:
        return Problem(str(self._path), line, message)


def sniff_array(path: Path) -> str | None:
    """The shape of a JSON array's first row, messages included, or None when it cannot be told."""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(_SNIFFED_CHARACTERS).removeprefix("\ufeff").lstrip().removeprefix("[").lstrip()
    try:
        row, _ = json.JSONDecoder().raw_decode(head)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    return foreign_shape(row) or ("messages" if "messages" in row else None)


def _parse(raw: bytes) -> dict[str, Any]:
    """One JSON object from one line; raises `ValueError` whose text says what is wrong and the fix."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from error
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply; write plain messages") from error
    rest = text[end:].lstrip()
    if rest.startswith("{"):
        raise ValueError("holds two JSON objects; put each on a line of its own")
    if rest:
        raise ValueError(f"is not JSON: unexpected text at column {len(text) - len(rest) + 1}")
    if not isinstance(value, dict):
        raise ValueError('is JSON but not an object; write {"messages": [...]}')
    return value
