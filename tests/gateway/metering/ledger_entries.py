"""Build an entry for the ledger, and read the rows that it wrote."""

from typing import Any

from sqlalchemy import Engine, select

from gateway.metering import Ledger, LedgerEntry, usage_ledger


def rows_of(ledger: Ledger, database: Engine) -> list[dict[str, Any]]:
    """Return all rows, oldest first, once the ledger has written them."""
    assert ledger.flush(60)
    with database.connect() as connection:
        found = connection.execute(select(usage_ledger).order_by(usage_ledger.c.opened_us)).mappings()
        return [dict(row) for row in found]


def entry(request_id: str = "req_1") -> LedgerEntry:
    """Build a streamed chat request of an adapter."""
    return LedgerEntry(
        request_id=request_id,
        tenant="default",
        key_id="admin",
        model="tone",
        adapter="tone",
        digest="0" * 64,
        stream=True,
        endpoint="/v1/chat/completions",
    )
