"""Rows as text, page by page, so that an export of any size takes little memory."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import orjson

from gateway.ledger.rows import EXPORTED

CONTENT_TYPES: Mapping[str, str] = MappingProxyType({"jsonl": "application/x-ndjson", "csv": "text/csv"})


def exported(pages: Iterable[list[dict[str, Any]]], form: str) -> Iterator[bytes]:
    """Pages of rows as JSON Lines, or as CSV with a head line."""
    if form == "jsonl":
        for page in pages:
            yield b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in page])
        return
    yield (",".join(EXPORTED) + "\n").encode()
    for page in pages:
        text = io.StringIO()
        csv.DictWriter(text, EXPORTED, lineterminator="\n").writerows([_safe(row) for row in page])
        yield text.getvalue().encode()


def _safe(row: dict[str, Any]) -> dict[str, Any]:
    """A spreadsheet takes text that begins like this for a formula, and clients choose model names and request ids."""
    return {
        name: f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
        for name, value in row.items()
    }
