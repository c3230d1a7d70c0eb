"""The ledger's rows as they are, one after the other, for exports: in order of time, a page at a time.

Rows as text, page by page, so that an export of any size takes little memory.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import orjson
from sqlalchemy import Engine, select, tuple_

from gateway.metering.fold import usage_ledger

_PAGE = 2_000

EXPORTED = tuple(str(column.name) for column in usage_ledger.c)
"""The columns of an export, in this order; new ones are added at the end."""


def rows(database: Engine, since_us: int, until_us: int, tenant: str | None = None) -> Iterator[list[dict[str, Any]]]:
    """Pages of rows that were opened in a window, of all tenants or of one. Blocks between pages."""
    row = usage_ledger.c
    place = (row.opened_us, row.request_id, row.attempt)
    query = select(usage_ledger).where(row.opened_us >= since_us, row.opened_us < until_us).order_by(*place)
    if tenant is not None:
        query = query.where(row.tenant == tenant)
    after: tuple[Any, ...] | None = None
    while True:
        page = query if after is None else query.where(row.opened_us >= after[0], tuple_(*place) > tuple_(*after))
        with database.connect() as connection:
            found = [dict(zip(EXPORTED, one, strict=True)) for one in connection.execute(page.limit(_PAGE))]
        if found:
            yield found
        if len(found) < _PAGE:
            return
        after = tuple(found[-1][column.name] for column in place)


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
