"""Which format a file has, told from its first bytes and its name, and its text as UTF-8 whatever it was written in."""

import codecs
import csv
import gzip
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

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
