"""Gateway processes that share a ledger: their ids, their heartbeats, and the open rows of those that ended.

A gateway has an id, kept in its data directory, and each of its processes is a run of it. An open row whose run has
ended was cut off: it is marked `interrupted`, with the tokens last noted. A wrong mark does no harm: a row that is
settled later is settled.
"""

import secrets
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from gateway.clock import DAY_US, HOUR_US, SECOND_US, now_us
from gateway.data_dir import create_whole
from gateway.metering.tables import gateway_runs, usage_ledger

GATEWAY_GONE_US = 120 * SECOND_US
"""A run without a heartbeat for this long is taken for dead; far longer than the heartbeat's period."""
_UNNAMED_GONE_US = HOUR_US  # rows of versions that did not record their gateway
_KEPT_US = 30 * DAY_US


def gateway_id(folder: Path) -> str:
    """Return the id of the gateway whose ledger folder this is; created on first use."""
    path = folder / "gateway"
    if not path.exists():
        create_whole(path, secrets.token_hex(8))
    return path.read_text(encoding="ascii").strip()


def heartbeat(connection: Connection, gateway: str, run: str) -> None:
    """Record that a run is alive."""
    now, row = now_us(), gateway_runs.c
    if not connection.execute(update(gateway_runs).where(row.run == run).values(seen_us=now)).rowcount:
        values = {"run": run, "gateway": gateway, "started_us": now, "seen_us": now}
        connection.execute(insert(gateway_runs).values(values))
        connection.execute(delete(gateway_runs).where(row.seen_us < now - _KEPT_US))


def interrupt_own_rows(connection: Connection, gateway: str, live_runs: Collection[str]) -> int:
    """Mark the open rows of a gateway's runs that have ended; returns how many rows."""
    row = usage_ledger.c
    return _interrupt(connection, and_(row.gateway == gateway, row.gateway_run.not_in(live_runs)))


def interrupt_lost_rows(connection: Connection) -> int:
    """Mark the open rows of all gateways' runs whose heartbeat stopped; returns how many rows."""
    row, now = usage_ledger.c, now_us()
    seen = select(gateway_runs.c.run).where(gateway_runs.c.seen_us > now - GATEWAY_GONE_US)
    unnamed = and_(row.gateway_run.is_(None), row.opened_us < now - _UNNAMED_GONE_US)
    is_lost = and_(row.opened_us < now - GATEWAY_GONE_US, or_(row.gateway_run.not_in(seen), unnamed))
    return _interrupt(connection, is_lost)


def _interrupt(connection: Connection, condition: object) -> int:
    row = usage_ledger.c
    marked = {"state": "interrupted", "evidence": func.coalesce(row.evidence, "none")}
    return connection.execute(update(usage_ledger).where(row.state == "open", condition).values(marked)).rowcount  # type: ignore[arg-type]
