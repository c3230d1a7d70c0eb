"""Export of ledger rows as JSON Lines or CSV, in order of time, page by page: any size takes little memory."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import orjson
from sqlalchemy import Engine, select, tuple_

from gateway.metering.tables import usage_ledger

CONTENT_TYPES: Mapping[str, str] = MappingProxyType({"jsonl": "application/x-ndjson", "csv": "text/csv"})
_PAGE_ROWS = 2_000
EXPORTED = tuple(str(column.name) for column in usage_ledger.c)
"""Columns of an export, in this order; new ones are added at the end."""


def ledger_pages(
    database: Engine, since_us: int, until_us: int, tenant: str | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Yield pages of the rows opened in a window, of one tenant or of all; blocks between pages."""
    row = usage_ledger.c
    place = (row.opened_us, row.request_id, row.attempt)
    query = select(usage_ledger).where(row.opened_us >= since_us, row.opened_us < until_us).order_by(*place)
    if tenant is not None:
        query = query.where(row.tenant == tenant)
    last: tuple[Any, ...] | None = None
    while True:
        page = query if last is None else query.where(row.opened_us >= last[0], tuple_(*place) > tuple_(*last))
        with database.connect() as connection:
            found = [dict(zip(EXPORTED, row, strict=True)) for row in connection.execute(page.limit(_PAGE_ROWS))]
        if found:
            yield found
        if len(found) < _PAGE_ROWS:
            return
        last = tuple(found[-1][column.name] for column in place)


def encode_pages(pages: Iterable[list[dict[str, Any]]], form: str) -> Iterator[bytes]:
    """Encode pages of rows as JSON Lines, or as CSV with a header line."""
    if form == "jsonl":
        for page in pages:
            yield b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in page])
        return
    yield (",".join(EXPORTED) + "\n").encode()
    for page in pages:
        text = io.StringIO()
        csv.DictWriter(text, EXPORTED, lineterminator="\n").writerows([_escape_formulas(row) for row in page])
        yield text.getvalue().encode()


def _escape_formulas(row: dict[str, Any]) -> dict[str, Any]:
    """Quote text that a spreadsheet would run as a formula: clients choose model names and request ids."""
    return {
        name: f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
        for name, value in row.items()
    }
