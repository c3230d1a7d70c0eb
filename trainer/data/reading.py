"""JSON Lines read as a stream: each line becomes a checked row or the problems it has, whatever the line holds.

Memory is bounded by the longest line that is taken, not by the file. Nothing in a file raises an exception here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from trainer.data.formats import HEAD_BYTES, advice, format_of
from trainer.data.row_checks import check_row, foreign_shape
from trainer.errors import Problem

SHAPE_NAMES = {
    "alpaca": "Alpaca (instruction, input, output)",
    "sharegpt": "ShareGPT (conversations)",
    "preference": "preference (chosen, rejected)",
    "columns": "columns (as question and answer)",
    "list": "list (turns without an object around them)",
}
Shape = Literal["messages", "prompt-completion", "preference", "sharegpt", "alpaca", "columns", "list"]
MAX_ROW_BYTES = 16 << 20
_SNIFFED_CHARACTERS = 1 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """A row that passed every check; `offset` is where its line begins in the file, in bytes."""

    line: int
    offset: int
    fields: dict[str, Any]


class Reader:
    """One pass over one file; `rows` (all, good or bad) and `sha256` are complete once `read` is exhausted."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._path = path
        self._hash = hashlib.sha256()
        self._foreign: dict[str, tuple[int, int]] = {}
        self._not_utf8: tuple[int, int] | None = None

    @property
    def sha256(self) -> str:
        """Of the bytes that were read."""
        return self._hash.hexdigest()

    def read(self) -> Iterator[Row | Problem]:
        """Rows and problems in the order of the file; what concerns the whole file comes last."""
        try:
            with self._path.open("rb") as file:
                if said := advice(format_of(file.peek(HEAD_BYTES), self._path), self._path):
                    self._skip(file, to_end=True)
                    yield self._problem(None, said)
                    return
                yield from self._read(file)
        except OSError as error:
            yield self._problem(None, f"cannot be read ({error.strerror}); check the path")

    def _read(self, file: IO[bytes]) -> Iterator[Row | Problem]:
        offset, number = 0, 0
        while raw := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            self._hash.update(raw)
            text = raw.removeprefix(b"\xef\xbb\xbf").strip()
            if self.rows == 0 and text and (problem := self._not_lines(text, number)):
                self._skip(file, to_end=True)
                yield problem
                return
            self.rows += bool(text)
            if len(raw) > MAX_ROW_BYTES:
                self._skip(file)
                yield self._problem(number, f"is longer than {MAX_ROW_BYTES >> 20} MiB; split the row or leave it out")
            elif text:
                yield from self._read_row(text, number, offset)
            offset = file.tell()
        if self.rows == 0:
            yield self._problem(None, "holds no rows; write one JSON object per line")
        yield from self._foreign_problems()

    def _skip(self, file: IO[bytes], *, to_end: bool = False) -> None:
        """Pass over the rest of a line, or of the file."""
        while chunk := file.read(_CHUNK_BYTES) if to_end else file.readline(_CHUNK_BYTES):
            self._hash.update(chunk)
            if not to_end and chunk.endswith(b"\n"):
                return

    def _read_row(self, raw: bytes, line: int, offset: int) -> Iterator[Row | Problem]:
        try:
            fields = parse_object(raw)
        except UnicodeError:
            first, count = self._not_utf8 or (line, 0)
            self._not_utf8 = first, count + 1
            return
        except ValueError as error:
            yield self._problem(line, str(error))
            return
        try:
            if shape := foreign_shape(fields):
                first, count = self._foreign.get(shape, (line, 0))
                self._foreign[shape] = first, count + 1
                return
            complaints = list(check_row(fields))
        except ValueError as error:
            yield self._problem(line, str(error))
            return
        yield from (self._problem(line, complaint) for complaint in complaints)
        if not complaints:
            yield Row(line, offset, fields)

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
        if self._not_utf8:
            first, count = self._not_utf8
            more = f" (and {count - 1} more rows)" if count > 1 else ""
            yield self._problem(first, f"is not UTF-8{more}; {self._advice('messages', '(which reads Windows-1252)')}")
        for shape, (first, count) in self._foreign.items():
            more = f" (and {count - 1} more rows)" if count > 1 else ""
            yield self._problem(first, f"is a row in {SHAPE_NAMES[shape]} shape{more}; {self._advice(shape)}")

    def _advice(self, shape: str, does: str = "") -> str:
        out = f"{self._path.stem}.messages.jsonl" if shape != "preference" else f"{self._path.stem}.pairs.jsonl"
        command = f"turntable data prepare --from {shape} {self._path} --out {out}"
        return f"save it as UTF-8, or: {command} {does}" if does else f"convert it: {command}"

    def _problem(self, line: int | None, message: str) -> Problem:
        return Problem(str(self._path), line, message)


def sniff_array(path: Path) -> Shape | None:
    """The shape of a JSON array's first row, a key of the converters, or None when it cannot be told."""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(_SNIFFED_CHARACTERS).removeprefix("\ufeff").lstrip().removeprefix("[").lstrip()
    try:
        row, _ = json.JSONDecoder().raw_decode(head)
    except (ValueError, RecursionError):
        return None
    return shape_of(row) if isinstance(row, dict) else None


def shape_of(row: Mapping[str, Any] | Sequence[Any]) -> Shape | None:
    """The name that `prepare --from` has for the shape of a row, or None for a shape that is not known."""
    if not isinstance(row, Mapping):
        return "list"
    if shape := foreign_shape(row):
        return shape
    if "messages" in row or "preferred_output" in row:
        return "messages"
    return "prompt-completion" if "completion" in row else None


def parse_object(raw: bytes) -> dict[str, Any]:
    """One JSON object from one line; raises `ValueError` whose text says what is wrong and the fix."""
    value = parse_line(raw)
    if not isinstance(value, dict):
        raise ValueError('is JSON but not an object; write {"messages": [...]}')
    return value


def parse_line(raw: bytes) -> Any:
    """The one JSON value of a line; raises `ValueError`, of the kind `UnicodeError` when it is not UTF-8."""
    text = raw.decode("utf-8")
    try:
        value, end = _DECODER.raw_decode(text)
    except _SpoiltError:
        raise
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply; write plain messages") from error
    except ValueError as error:
        raise ValueError(f"holds a number that is too long to read ({error})") from error
    rest = text[end:].lstrip()
    if rest.startswith("{"):
        raise ValueError("holds two JSON objects; put each on a line of its own")
    if rest:
        raise ValueError(f"is not JSON: unexpected text at column {len(text) - len(rest) + 1}")
    return value


class _SpoiltError(ValueError):
    """JSON that Python reads and others read otherwise or not at all."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _SpoiltError(f"has the field {twice!r} twice; leave one out")
    return found


def _no_number(constant: str) -> None:
    raise _SpoiltError(f"holds {constant}, which is not JSON; write null, or leave the field out")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number)
