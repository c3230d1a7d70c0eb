"""Which gateway processes write to a ledger, and what became of the rows of those that do no more.

A gateway has an id, kept in its data directory, and each of its processes is a run of it. A row that is open and whose
run has ended was cut off: it is marked `interrupted`, with the tokens last seen. The mark costs nothing when it was
wrong: a row that is settled later is settled.
"""

import secrets
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, and_, delete, func, insert, or_, select
from sqlalchemy import update as update_of

from gateway.clock import DAY_US, HOUR_US, now_us
from gateway.data_dir import create_whole
from gateway.metering.fold import usage_ledger

gateway_runs = Table(
    "gateway_runs",
    MetaData(),
    Column("run", String(16), primary_key=True),
    Column("gateway", String(16), nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
)

GONE_US = 120 * 10**6
"""A run that was not seen for this long is taken for dead: far more than a heartbeat, and no answer waits for it."""
_UNNAMED_GONE_US = HOUR_US  # rows of versions that did not note their gateway
_KEPT_US = 30 * DAY_US


def gateway_id(folder: Path) -> str:
    """The id of the gateway whose data lies here; made on first use."""
    path = folder / "gateway"
    if not path.exists():
        create_whole(path, secrets.token_hex(8))
    return path.read_text(encoding="ascii").strip()


def sweep_own(connection: Connection, gateway: str, living: Collection[str]) -> int:
    """Mark what earlier runs of this gateway left open; returns how many rows. Runs in `living` go on elsewhere."""
    row = usage_ledger.c
    return _interrupt(connection, and_(row.gateway == gateway, row.gateway_run.not_in(living)))


def sweep_gone(connection: Connection) -> int:
    """Mark what gateways left open that were not seen for long; returns how many rows."""
    row, now = usage_ledger.c, now_us()
    seen = select(gateway_runs.c.run).where(gateway_runs.c.seen_us > now - GONE_US)
    unnamed = and_(row.gateway_run.is_(None), row.opened_us < now - _UNNAMED_GONE_US)
    return _interrupt(connection, and_(row.opened_us < now - GONE_US, or_(row.gateway_run.not_in(seen), unnamed)))


def beat(connection: Connection, gateway: str, run: str) -> None:
    """Say that a run goes on."""
    now, row = now_us(), gateway_runs.c
    if not connection.execute(update_of(gateway_runs).where(row.run == run).values(seen_us=now)).rowcount:
        values = {"run": run, "gateway": gateway, "started_us": now, "seen_us": now}
        connection.execute(insert(gateway_runs).values(values))
        connection.execute(delete(gateway_runs).where(row.seen_us < now - _KEPT_US))


def _interrupt(connection: Connection, whose: object) -> int:
    row = usage_ledger.c
    marked = {"state": "interrupted", "evidence": func.coalesce(row.evidence, "none")}
    return connection.execute(update_of(usage_ledger).where(row.state == "open", whose).values(marked)).rowcount  # type: ignore[arg-type]
