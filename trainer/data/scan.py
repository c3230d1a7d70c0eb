"""One pass over the files of a check: what every row is compared by goes into columns of numbers, the rows themselves
are forgotten.

A row costs about 80 bytes of memory, whatever its length, and its signature lies in a temporary file. Where the text of
a row is needed afterwards, it is read again at its offset.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.estimate import CHARACTERS_PER_TOKEN
from trainer.data.labels import Labels
from trainer.data.loaders import Reader, Row, parse_object
from trainer.data.near_duplicates import U64, Fingerprint, NearDuplicateIndex, answer_text, fingerprint, hash64
from trainer.data.pii import KINDS, NAMES
from trainer.data.redaction import count_row
from trainer.data.row_signs import SIGNS, Ratings, conflicting_scores, placeholders, signs
from trainer.data.schema import Example, Pair, parse_row
from trainer.errors import Problem

MOST_PROBLEMS = 10_000
PLACES = 20
_COLUMNS = ("file", "line", "offset", "row", "asked", "near", "answer", "rejected", "group", "label")


@dataclass
class Tally:
    """How often something was found and in which rows first; `places` are sentences with file and line."""

    rows: int = 0
    pieces: int = 0
    places: list[Problem] = field(default_factory=list)

    def add(self, place: Problem, pieces: int = 1) -> None:
        """Count one row that holds so many pieces."""
        self.rows += 1
        self.pieces += pieces
        if len(self.places) < PLACES:
            self.places.append(place)


@dataclass
class FileScan:
    """What one file held: `rows` counts all, good or bad; of very many problems the first `MOST_PROBLEMS` are kept."""

    path: Path
    rows: int = 0
    sha256: str = ""
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    unreadable: bool = False


@dataclass(frozen=True)
class Columns:
    """One number per good row of all files, in order; `label` and `group` are hashes of its class and group, or 0."""

    file: U64
    line: U64
    offset: U64
    row: U64
    asked: U64
    near: U64
    answer: U64
    rejected: U64
    group: U64
    label: U64

    def __len__(self) -> int:
        return len(self.line)


class ColumnBuilder:
    """Collects the columns row by row."""

    def __init__(self) -> None:
        self._columns = {name: array("Q") for name in _COLUMNS}

    def add(self, marks: Fingerprint, **others: int) -> None:
        """Take the next row; columns that are neither of its fingerprint nor named in `others` hold 0."""
        for name, column in self._columns.items():
            column.append(others.get(name, getattr(marks, name, 0)))

    def build(self) -> Columns:
        """The columns of all rows so far."""
        columns = {name: np.frombuffer(values, np.uint64) for name, values in self._columns.items()}
        return Columns(**columns)


class Scanner:
    """Scans files one after the other into an index of near inputs."""

    def __init__(
        self,
        index: NearDuplicateIndex,
        *,
        label_field: str | None = None,
        group_field: str | None = None,
        longest: int | None = None,
    ) -> None:
        self.files: list[FileScan] = []
        self.labels = Labels(label_field)
        self.personal: dict[str, Tally] = {kind: Tally() for kind in KINDS}
        self.placeholders = Tally()
        self.signs: dict[str, Tally] = {name: Tally() for name in SIGNS}
        self.ratings, self.turned_scores = Ratings(), Tally()
        self.ungrouped = self.characters = 0
        self._index = index
        self._group_field, self._longest = group_field, longest
        self._rows = 0
        self._columns = ColumnBuilder()

    def scan(self, path: Path) -> None:
        """Take all rows of one file."""
        file, reader = FileScan(path), Reader(path)
        self.files.append(file)
        for found in reader.read():
            if isinstance(found, Row):
                self._take(file, found)
                continue
            file.problem_count += 1
            file.unreadable |= found.line is None and reader.rows == 0
            if len(file.problems) < MOST_PROBLEMS:
                file.problems.append(found)
        file.rows, file.sha256 = reader.rows, reader.sha256
        file.problems.sort(key=lambda problem: problem.line or 0)

    def columns(self) -> Columns:
        """The columns of all rows so far."""
        return self._columns.build()

    def _take(self, file: FileScan, found: Row) -> None:
        row = parse_row(found.line, found.fields)
        example = row.preferred if isinstance(row, Pair) else row
        file.kinds["pairs" if isinstance(row, Pair) else "conversations"] += 1
        self._look_for_remains(str(file.path), found, row)
        marks = fingerprint(row)
        answer = answer_text(example)
        label = self.labels.add(answer)
        if isinstance(row, Example):
            self.ratings.add(self._rows, found.fields, answer)
        self._rows += 1
        group = value_at(found.fields, self._group_field) if self._group_field else None
        self.ungrouped += self._group_field is not None and group is None
        self._index.add(marks.shingles)
        self._columns.add(
            marks,
            file=len(self.files) - 1,
            line=found.line,
            offset=found.offset,
            group=0 if group is None else hash64(group),
            label=0 if label is None else hash64(label),
        )

    def _look_for_remains(self, path: str, found: Row, row: Example | Pair) -> None:
        for kind, pieces in count_row(found.fields).items():
            self.personal[kind].add(Problem(path, found.line, f"holds {NAMES[kind]}"), pieces)
        sides = (row.preferred, row.rejected) if isinstance(row, Pair) else (row,)
        lengths = [_characters(side) for side in sides]
        self.characters += sum(lengths)
        self._look_for_signs(path, found, row, max(lengths) // CHARACTERS_PER_TOKEN)
        texts = (message.content for side in sides for message in side.messages)
        if names := sorted({name for text in texts for name in placeholders(text)}):
            self.placeholders.add(Problem(path, found.line, f"holds the placeholder {', '.join(names)}"))

    def _look_for_signs(self, path: str, found: Row, row: Example | Pair, tokens: int) -> None:
        """What is doubtful about a row; a pair's sides share their input, so it is told once."""
        sides = (row.preferred, row.rejected) if isinstance(row, Pair) else (row,)
        told = {name: sentence for side in reversed(sides) for name, sentence in signs(side)}
        if self._longest is not None and tokens > self._longest:
            told["long"] = f"has about {tokens:,} tokens, more than {self._longest:,}"
        for name, sentence in told.items():
            self.signs[name].add(Problem(path, found.line, sentence))
        for sentence in conflicting_scores(found.fields) if isinstance(row, Pair) else ():
            self.turned_scores.add(Problem(path, found.line, sentence))


def _characters(example: Example) -> int:
    """What a conversation is long, tools and calls of them as JSON included."""
    calls = [list(message.tool_calls) for message in example.messages if message.tool_calls]
    extra = len(json.dumps([list(example.tools), calls])) if example.tools or calls else 0
    return extra + sum(len(message.content) for message in example.messages)


def value_at(fields: Mapping[str, Any], dotted: str) -> str | None:
    """The value of a field of a row as text, dotted for nested ones; None when there is none."""
    value: Any = fields
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return None if value is None else str(value)


def read_rows(files: Sequence[FileScan], columns: Columns, rows: npt.NDArray[np.int64]) -> Iterator[Example | Pair]:
    """Read rows of the columns again, in the given order; the files have not changed since."""
    handles = [file.path.open("rb") for file in files]
    try:
        for row in rows:
            handle = handles[int(columns.file[row])]
            handle.seek(int(columns.offset[row]))
            text = handle.readline().removeprefix(b"\xef\xbb\xbf").strip()
            yield parse_row(int(columns.line[row]), parse_object(text))
    finally:
        for handle in handles:
            handle.close()
