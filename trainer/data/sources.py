"""Rows of a file that is to be converted, as a stream: JSON Lines, one JSON array, CSV, TSV or Parquet, of any size.

Files packed with gzip are unpacked, and UTF-16 and Windows-1252 are read as well.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from trainer.data.formats import Format, advice, delimiter_of, text_of
from trainer.data.reading import MAX_ROW_BYTES, parse_line
from trainer.errors import DataError, Problem


def source_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Number and content of each row; the number is the line, in an array, a table or Parquet the place from 1.

    A line that is no JSON object or list comes as the `ValueError` that says why. Raises `DataError` when the file
    cannot be read to its end.
    """
    try:
        with text_of(path) as (file, found, name):
            yield from _rows(path, file, found, name)
    except OSError as error:
        said = f"cannot be read ({error.strerror or error}); check the path"
        raise DataError([Problem(str(path), None, said)]) from error
    except (EOFError, UnicodeDecodeError) as error:
        raise DataError([Problem(str(path), None, f"breaks off or is damaged ({error}); fetch it again")]) from error


def _rows(path: Path, file: IO[bytes], found: Format, name: Path) -> Iterator[tuple[int, object]]:
    match found:
        case "lines":
            yield from _lines(file)
        case "array":
            yield from _lines(file) if _is_list_per_line(file) else _array(path, file)
        case "csv":
            yield from _table(path, file, name)
        case "parquet":
            yield from _parquet(path, file)
        case _:
            raise DataError([Problem(str(path), None, str(advice(found, name)))])


def _lines(file: IO[bytes]) -> Iterator[tuple[int, object]]:
    number = 0
    while raw := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(raw) > MAX_ROW_BYTES:
            while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, ValueError(f"is longer than {MAX_ROW_BYTES >> 20} MiB")
        elif text := raw.strip():
            yield number, _line(text)


def _line(text: bytes) -> object:
    try:
        value = parse_line(_utf8(text))
    except ValueError as error:
        return error
    return (
        value if isinstance(value, dict | list) else ValueError('is JSON but not an object; write {"messages": [...]}')
    )


def _utf8(text: bytes) -> bytes:
    """A line as UTF-8: one that is not is taken for Windows-1252, of which Latin-1 is a part."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("cp1252", "replace").encode()
    return text


def _is_list_per_line(file: IO[bytes]) -> bool:
    """Whether each of the first lines is a whole array: rows that are lists of turns, and no array of rows."""
    begin = file.tell()
    lines = [line for line in (file.readline(MAX_ROW_BYTES).strip() for _ in range(2)) if line]
    file.seek(begin)
    return len(lines) == 2 and all(isinstance(_line(line), list) for line in lines)


def _array(path: Path, file: IO[bytes]) -> Iterator[tuple[int, object]]:
    import ijson

    number = 0
    try:
        for number, row in enumerate(ijson.items(_Recoded(file), "item", use_float=True), start=1):
            yield number, row
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError([Problem(str(path), None, f"is no JSON array past row {number} ({reason})")]) from error


class _Recoded:
    """Reads a file line by line as UTF-8."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Some whole lines, or a part of one that is longer than `size`; nothing at the end."""
        return _utf8(self._file.readline(size)) if size else b""


def _table(path: Path, file: IO[bytes], name: Path) -> Iterator[tuple[int, object]]:
    """The rows of a table by the names in its first line; cells that are JSON are read as such."""
    begin = file.tell()
    delimiter = delimiter_of(name, _utf8(file.readline(MAX_ROW_BYTES)).decode())
    file.seek(begin)
    csv.field_size_limit(MAX_ROW_BYTES)
    rows = csv.reader(
        (_utf8(line).decode() for line in iter(lambda: file.readline(MAX_ROW_BYTES), b"")), delimiter=delimiter
    )
    header = [cell.strip() for cell in next(rows, [])]
    if len(set(header)) != len(header) or "" in header:
        said = f"has the columns {', '.join(header)}: each needs a name of its own in the first line"
        raise DataError([Problem(str(path), 1, said)])
    number = 0
    try:
        for number, cells in enumerate((cells for cells in rows if cells), start=1):
            if len(cells) > len(header):
                yield (
                    number,
                    ValueError(
                        f"has {len(cells)} cells for {len(header)} columns; quote cells that hold {delimiter!r}"
                    ),
                )
            else:
                filled = zip(header, cells, strict=False)
                yield number, {column: _cell(cell) for column, cell in filled if cell.strip()}
    except csv.Error as error:
        raise DataError([Problem(str(path), None, f"is no table past row {number} ({error})")]) from error


def _cell(cell: str) -> Any:
    if cell.lstrip()[:2] in ("[{", '{"', "[["):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _parquet(path: Path, file: IO[bytes]) -> Iterator[tuple[int, object]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        batches = parquet.ParquetFile(file).iter_batches(batch_size=256)
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
            yield number, {name: _plain(value) for name, value in row.items() if value is not None}
    except pyarrow.ArrowException as error:
        raise DataError([Problem(str(path), None, f"is no whole Parquet file past row {number} ({error})")]) from error


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it; what JSON does not know becomes text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | bool | int | float | None) else str(value)


def column_names(path: Path, most: int = 20) -> list[str]:
    """The fields of a file's first rows, in their order."""
    first = (row for _, row in islice(source_rows(path), most) if isinstance(row, dict))
    return list(dict.fromkeys(name for row in first for name in row))
