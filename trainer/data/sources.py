"""Rows of a file that is to be converted, as a stream: JSON Lines, or one JSON array of any size."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trainer.data.reading import MAX_ROW_BYTES, parse_object
from trainer.errors import DataError, Problem

_BOM = b"\xef\xbb\xbf"
_SNIFFED_BYTES = 1 << 16


def source_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Number and content of each row; the number is the line, in an array the place from 1.

    A line that is no JSON object comes as the `ValueError` that says why. Raises `DataError` when the file cannot be
    read to its end.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED_BYTES)
            marked = head.startswith(_BOM)
            file.seek(len(_BOM) if marked else 0)
            yield from _array(path, file) if head.removeprefix(_BOM).lstrip().startswith(b"[") else _lines(file)
    except OSError as error:
        raise DataError([Problem(str(path), None, f"cannot be read ({error.strerror}); check the path")]) from error


def _lines(file: IO[bytes]) -> Iterator[tuple[int, object]]:
    number = 0
    while raw := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(raw) > MAX_ROW_BYTES:
            while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, ValueError(f"is longer than {MAX_ROW_BYTES >> 20} MiB")
        elif text := raw.strip():
            try:
                yield number, parse_object(text)
            except ValueError as error:
                yield number, error


def _array(path: Path, file: IO[bytes]) -> Iterator[tuple[int, object]]:
    import ijson

    number = 0
    try:
        for number, row in enumerate(ijson.items(file, "item", use_float=True), start=1):
            yield number, row
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError([Problem(str(path), None, f"is no JSON array past row {number} ({reason})")]) from error
