"""Ledger rows written straight into a database, as a gateway would have left them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, insert

from gateway.metering import usage_ledger

_ROW: dict[str, Any] = {
    "attempt": 1,
    "state": "settled",
    "tenant": "acme",
    "key_id": "k1",
    "model": "base",
    "adapter": None,
    "digest": None,
    "stream": False,
    "status": 200,
    "finish": "completed",
    "evidence": "exact",
    "prompt_tokens": 0,
    "cached_tokens": 0,
    "completion_tokens": 0,
    "endpoint": "/v1/chat/completions",
    "engine": "engine-0",
}


def row(number: int, opened_us: int, took_us: int | None = 10**6, **fields: Any) -> dict[str, Any]:
    """One row; `took_us` None leaves it unsettled."""
    settled = {"settled_us": None, "state": "open"} if took_us is None else {"settled_us": opened_us + took_us}
    return _ROW | {"request_id": f"req_{number}", "opened_us": opened_us} | settled | fields


def write_rows(database: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Put rows onto the ledger."""
    with database.begin() as connection:
        connection.execute(insert(usage_ledger), list(rows))
