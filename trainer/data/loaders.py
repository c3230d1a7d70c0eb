"""Read data files: detect the format, decode to UTF-8, and stream JSON Lines as checked rows or problems.

The reader's memory is bounded by the longest accepted line, not by the file, and no content of a file makes it raise.
"""

import codecs
import csv
import gzip
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from trainer.data.row_checks import check_row, foreign_shape
from trainer.data.schema import Example, Pair, is_good, parse_row
from trainer.errors import DataError, Problem

Format = Literal["lines", "array", "csv", "parquet", "gzip", "utf-16", "zip", "other"]
HEAD_BYTES = 1 << 16
_BOM = codecs.BOM_UTF8
_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"PAR1", "parquet"),
    (b"PK\x03\x04", "zip"),
    (b"BZh", "other"),
    (b"\xfd7zXZ\x00", "other"),
    (b"\x28\xb5\x2f\xfd", "other"),
    (b"ARROW1", "other"),
    (b"SQLite format 3", "other"),
    (b"%PDF-", "other"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NAMES: dict[Format, str] = {
    "csv": "a table (CSV)",
    "parquet": "a Parquet file",
    "gzip": "compressed (gzip)",
    "utf-16": "written in UTF-16",
}
_DELIMITERS = ",;\t|"
_TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


def format_of(head: bytes, path: Path) -> Format:
    """The format of a file that begins with `head`."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if _is_utf16(head):
        return "utf-16"
    text = head.removeprefix(_BOM).lstrip()
    if not text or text[:1] in b"{[":
        return "array" if text.startswith(b"[") else "lines"
    return "csv" if _suffix(path) in _TABLES or _is_table(text) else "lines"


def advice(found: Format, path: Path) -> str | None:
    """What to do with a file that is not read as it is; None for JSON, which is."""
    if found in ("lines", "array"):
        return None
    if found in ("zip", "other"):
        kind = "a zip archive or an Excel workbook" if found == "zip" else "neither text nor Parquet"
        return f"is {kind}; save it as JSON Lines, CSV or Parquet (gzip is read by turntable data prepare)"
    out = f"{path.name.partition('.')[0]}.messages.jsonl"
    return f"is {_NAMES[found]}, not JSON Lines; convert it: turntable data prepare {path} --out {out}"


@contextmanager
def text_of(path: Path) -> "Iterator[tuple[IO[bytes], Format, Path]]":
    """The text of a file in UTF-8 from its beginning, its format, and its name without what was unpacked.

    Bytes that are no UTF-8 are left as they are: whoever reads a line says so. Raises `OSError`.
    """
    with path.open("rb") as file:
        found = format_of(file.read(HEAD_BYTES), path)
        file.seek(0)
        if found == "gzip":
            with tempfile.TemporaryFile() as unpacked:
                with gzip.open(file) as packed:
                    shutil.copyfileobj(packed, unpacked)
                unpacked.seek(0)
                inner = path.with_suffix("") if path.suffix == ".gz" else path
                yield _begun(unpacked, inner)
        elif found == "utf-16":
            with tempfile.TemporaryFile() as recoded:
                encoding = "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else _endian(file)
                file.seek(0)
                for piece in codecs.iterdecode(iter(lambda: file.read(HEAD_BYTES), b""), encoding):
                    recoded.write(piece.encode("utf-8", "surrogatepass"))
                recoded.seek(0)
                yield _begun(recoded, path)
        else:
            yield _begun(file, path)


def delimiter_of(path: Path, header: str) -> str:
    """What stands between the cells of a table: by the file's name, or the sign that its header has most of."""
    likeliest = max(_DELIMITERS, key=header.count)
    return likeliest if header.count(likeliest) else _TABLES.get(_suffix(path), ",")


def _begun(file: IO[bytes], path: Path) -> tuple[IO[bytes], Format, Path]:
    """A file at its first character, behind the mark that says it is UTF-8."""
    head = file.read(HEAD_BYTES)
    file.seek(len(_BOM) if head.startswith(_BOM) else 0)
    return file, format_of(head, path), path


def _endian(file: IO[bytes]) -> str:
    file.seek(0)
    return "utf-16-be" if file.read(1) == b"\x00" else "utf-16-le"


def _is_utf16(head: bytes) -> bool:
    """Whether every second byte of what was read is zero, as in English text in UTF-16 without a mark."""
    sample = head[:200]
    return len(sample) >= 4 and (set(sample[1::2]) == {0} or set(sample[0:-1:2]) == {0})


def _is_table(text: bytes) -> bool:
    """Whether the first two lines have the same cells, two or more; a line that looks like JSON is none."""
    lines = text.decode("utf-8", "replace").splitlines()[:2]
    if len(lines) < 2 or any(line.lstrip().startswith(("{", "[")) for line in lines):
        return False
    mark = max(_DELIMITERS, key=lines[0].count)
    first, second = (next(csv.reader([line], delimiter=mark), []) for line in lines)
    return 1 < len(first) <= len(second) + (second == [])


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


SHAPE_NAMES = {
    "alpaca": "Alpaca (instruction, input, output)",
    "sharegpt": "ShareGPT (conversations)",
    "preference": "preference (chosen, rejected)",
    "columns": "columns (as question and answer)",
    "list": "list (turns without an object around them)",
}
Shape = Literal["messages", "prompt-completion", "preference", "sharegpt", "alpaca", "columns", "list"]
Kind = Literal["conversations", "pairs", "ratings"]
_OTHER_KIND: dict[Kind, str] = {
    "conversations": "is a preference pair in a file of conversations; move preference pairs to a file of their own",
    "pairs": "is a conversation in a file of preference pairs; move conversations to a file of their own",
    "ratings": 'has no label of its answer; write a conversation with "label": true (or "good"), or false (or "bad")',
}
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
    """Read one file once; `rows` (all, good or bad) and `sha256` are complete once `read` is exhausted.

    With `kind`, rows of the other kind are problems.
    """

    def __init__(self, path: Path, kind: Kind | None = None) -> None:
        self.rows = 0
        self._path, self._kind = path, kind
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
                yield self._problem(number, f"is longer than {MAX_ROW_BYTES >> 20} MiB; split the row or remove it")
            elif text:
                yield from self._read_row(text, number, offset)
            offset = file.tell()
        if self.rows == 0:
            yield self._problem(None, "has no rows; write one JSON object per line")
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
            if not complaints and self._kind and not _is_of_kind(fields, self._kind):
                complaints = [_OTHER_KIND[self._kind]]
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


def read_examples(path: Path) -> tuple[Example, ...]:
    """Read all conversations of a file, in order; raises `DataError` with every problem."""
    return tuple(row for row in _read_all(path, "conversations") if isinstance(row, Example))


def read_pairs(path: Path) -> tuple[Pair, ...]:
    """Read all preference pairs of a file, in order; raises `DataError` with every problem."""
    return tuple(row for row in _read_all(path, "pairs") if isinstance(row, Pair))


def _read_all(path: Path, kind: Kind) -> list[Example | Pair]:
    rows, problems = list[Example | Pair](), list[Problem]()
    for found in Reader(path, kind).read():
        if isinstance(found, Problem):
            problems.append(found)
        else:
            rows.append(parse_row(found.line, found.fields))
    if problems:
        raise DataError(sorted(problems, key=lambda problem: problem.line or 0))
    return rows


def kind_of(fields: Mapping[str, Any]) -> Kind:
    """Return the kind of a checked row."""
    return "pairs" if "preferred_output" in fields and "messages" not in fields else "conversations"


def _is_of_kind(fields: Mapping[str, Any], kind: Kind) -> bool:
    if kind == "ratings":
        return kind_of(fields) == "conversations" and is_good(fields) is not None
    return kind_of(fields) == kind


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
        raise ValueError(f"contains a number that is too long to read ({error})") from error
    rest = text[end:].lstrip()
    if rest.startswith("{"):
        raise ValueError("has two JSON objects; put each on a line of its own")
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
    raise _SpoiltError(f"contains {constant}, which is not JSON; write null, or leave the field out")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number)
