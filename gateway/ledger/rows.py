"""The ledger's rows as they are, one after the other, for exports: in order of time, a page at a time."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, select, tuple_

from gateway.ledger.table import usage_ledger

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
