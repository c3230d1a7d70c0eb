"""Load files for a check: one pass that turns every row into a few numbers, to compare rows without their texts.

A row takes about 80 bytes of memory, whatever its length; its MinHash signature is in a temporary file. A text that is
needed again is read again. Training keeps the parsed rows as well.
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
from trainer.data.labels import Balance, Labels
from trainer.data.loaders import Kind, Reader, Row, parse_object
from trainer.data.near_duplicates import U64, Fingerprint, NearDuplicateIndex, answer_text, fingerprint, hash64
from trainer.data.pii import KINDS, NAMES
from trainer.data.redaction import count_row
from trainer.data.row_signs import SIGNS, Ratings, conflicting_scores, placeholders, signs
from trainer.data.schema import Example, Pair, parse_row
from trainer.errors import Problem

MAX_PROBLEMS = 10_000
MAX_PLACES = 20
_COLUMNS = ("file", "line", "offset", "row", "asked", "near", "answer", "rejected", "group", "label")


@dataclass
class Tally:
    """Count the rows that show one thing; `places` are the first of them, as sentences with file and line."""

    rows: int = 0
    matches: int = 0
    places: list[Problem] = field(default_factory=list)

    def add(self, place: Problem, matches: int = 1) -> None:
        """Count one row with so many matches."""
        self.rows += 1
        self.matches += matches
        if len(self.places) < MAX_PLACES:
            self.places.append(place)


@dataclass
class FileScan:
    """The contents of one file: `rows` counts all rows, `kept` holds the good ones where they are kept.

    Of very many problems the first `MAX_PROBLEMS` are kept.
    """

    path: Path
    rows: int = 0
    sha256: str = ""
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    unreadable: bool = False
    kept: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """One number per good row of all files, in order; `label` and `group` are hashes of its class and group, or 0.

    `row` is the row's identity, `asked` and `near` hashes of its input with and without tools and system messages,
    `answer` and `rejected` hashes of its outputs.
    """

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
    """Collect the columns row by row."""

    def __init__(self) -> None:
        self._columns = {name: array("Q") for name in _COLUMNS}

    def add(self, fingerprint: Fingerprint, **others: int) -> None:
        """Add a row; a column that is neither of its fingerprint nor named in `others` gets 0."""
        for name, column in self._columns.items():
            column.append(others.get(name, getattr(fingerprint, name, 0)))

    def build(self) -> Columns:
        """Return the columns of all rows so far."""
        columns = {name: np.frombuffer(values, np.uint64) for name, values in self._columns.items()}
        return Columns(**columns)


class Scanner:
    """Scan files one after the other into columns and an index of near-duplicates.

    With `kind`, rows of the other kind are problems; with `keep_rows`, the parsed rows stay in memory. `max_length` is
    in tokens, which are estimated from characters here. `training_balances` are the classes of the first file.
    """

    def __init__(
        self,
        index: NearDuplicateIndex,
        *,
        kind: Kind | None = None,
        keep_rows: bool = False,
        label_field: str | None = None,
        group_field: str | None = None,
        max_length: int | None = None,
    ) -> None:
        self.files: list[FileScan] = []
        self.labels = Labels(label_field)
        self.training_balances: tuple[Balance, ...] = ()
        self.pii: dict[str, Tally] = {name: Tally() for name in KINDS}
        self.placeholders = Tally()
        self.signs: dict[str, Tally] = {name: Tally() for name in SIGNS}
        self.ratings, self.conflicting_scores = Ratings(), Tally()
        self.ungrouped = self.characters = 0
        self._index = index
        self._kind, self._keep_rows = kind, keep_rows
        self._group_field, self._max_length = group_field, max_length
        self._rows = 0
        self._columns = ColumnBuilder()

    def scan(self, path: Path) -> None:
        """Read all rows of one file."""
        file, reader = FileScan(path), Reader(path, self._kind)
        self.files.append(file)
        for found in reader.read():
            if isinstance(found, Row):
                self._add_row(file, found)
                continue
            file.problem_count += 1
            file.unreadable |= found.line is None and reader.rows == 0
            if len(file.problems) < MAX_PROBLEMS:
                file.problems.append(found)
        file.rows, file.sha256 = reader.rows, reader.sha256
        file.problems.sort(key=lambda problem: problem.line or 0)
        if len(self.files) == 1:
            self.training_balances = self.labels.balances

    def columns(self) -> Columns:
        """Return the columns of all rows so far."""
        return self._columns.build()

    def _add_row(self, file: FileScan, found: Row) -> None:
        row = parse_row(found.line, found.fields)
        example = row.preferred if isinstance(row, Pair) else row
        file.kinds["pairs" if isinstance(row, Pair) else "conversations"] += 1
        if self._keep_rows:
            file.kept.append(row)
        self._scan_texts(str(file.path), found, row)
        prints = fingerprint(row)
        answer = answer_text(example)
        label = self.labels.add(answer)
        if isinstance(row, Example) and self._kind != "ratings":
            self.ratings.add(self._rows, found.fields, answer)
        self._rows += 1
        group = value_at(found.fields, self._group_field) if self._group_field else None
        self.ungrouped += self._group_field is not None and group is None
        self._index.add(prints.shingles)
        self._columns.add(
            prints,
            file=len(self.files) - 1,
            line=found.line,
            offset=found.offset,
            group=0 if group is None else hash64(group),
            label=0 if label is None else hash64(label),
        )

    def _scan_texts(self, path: str, found: Row, row: Example | Pair) -> None:
        """Look for PII, placeholders and doubtful signs."""
        for kind, matches in count_row(found.fields).items():
            self.pii[kind].add(Problem(path, found.line, f"contains {NAMES[kind]}"), matches)
        sides = (row.preferred, row.rejected) if isinstance(row, Pair) else (row,)
        lengths = [_characters(side) for side in sides]
        self.characters += sum(lengths)
        self._scan_signs(path, found, row, max(lengths) // CHARACTERS_PER_TOKEN)
        texts = (message.content for side in sides for message in side.messages)
        if names := sorted({name for text in texts for name in placeholders(text)}):
            self.placeholders.add(Problem(path, found.line, f"contains the placeholder {', '.join(names)}"))

    def _scan_signs(self, path: str, found: Row, row: Example | Pair, tokens: int) -> None:
        """Count each doubtful sign once per row: the two sides of a pair share their input."""
        sides = (row.preferred, row.rejected) if isinstance(row, Pair) else (row,)
        shown = {name: sentence for side in reversed(sides) for name, sentence in signs(side)}
        if self._max_length is not None and tokens > self._max_length:
            shown["long"] = f"has about {tokens:,} tokens, more than {self._max_length:,}"
        for name, sentence in shown.items():
            self.signs[name].add(Problem(path, found.line, sentence))
        for sentence in conflicting_scores(found.fields) if isinstance(row, Pair) else ():
            self.conflicting_scores.add(Problem(path, found.line, sentence))


def _characters(example: Example) -> int:
    """Count the characters of a conversation, its tools and tool calls as JSON included."""
    calls = [list(message.tool_calls) for message in example.messages if message.tool_calls]
    extra = len(json.dumps([list(example.tools), calls])) if example.tools or calls else 0
    return extra + sum(len(message.content) for message in example.messages)


def value_at(fields: Mapping[str, Any], dotted: str) -> str | None:
    """Return a field of a row as text, dotted for nested ones; None when the row has none."""
    value: Any = fields
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return None if value is None else str(value)


def read_rows(files: Sequence[FileScan], columns: Columns, rows: npt.NDArray[np.int64]) -> Iterator[Example | Pair]:
    """Read rows of the columns again, in the given order; the files must not have changed since the scan."""
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
