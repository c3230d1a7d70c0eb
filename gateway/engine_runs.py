"""Engine runs: when an engine was up, at which price. The bill is made of these; a heartbeat bounds a run that
crashed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, String, Table, insert, select, update

from gateway.ledger import now_us

_runs = Table(
    "engine_runs",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("started_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
    Column("nano_usd_per_hour", BigInteger),
    Column("engine", String(64)),
)


@dataclass(frozen=True)
class EngineRun:
    """One stretch of an engine being up, in microseconds since the epoch; the price is None when nobody stated one."""

    started_us: int
    seen_us: int
    nano_usd_per_hour: int | None
    engine: str | None = None


class EngineRuns:
    """Reads and writes engine runs; methods block."""

    def __init__(self, database: Engine, usd_per_hour: Decimal | None) -> None:
        self._database = database
        self._nano_usd_per_hour = None if usd_per_hour is None else int(usd_per_hour * 10**9)
        self._run_ids: dict[str, int] = {}

    def heartbeat(self, up: Collection[str]) -> None:
        """The engines that are up at this moment: begins their runs, or extends them; other runs have ended."""
        now = now_us()
        self._run_ids = {engine: run_id for engine, run_id in self._run_ids.items() if engine in up}
        if not up:
            return
        with self._database.begin() as connection:
            connection.execute(update(_runs).where(_runs.c.id.in_(self._run_ids.values())).values(seen_us=now))
            for engine in set(up) - self._run_ids.keys():
                values: dict[str, Any] = {"started_us": now, "seen_us": now, "engine": engine}
                values["nano_usd_per_hour"] = self._nano_usd_per_hour
                key = connection.execute(insert(_runs).values(values)).inserted_primary_key
                assert key is not None, "an insert into one row yields its key"
                self._run_ids[engine] = key[0]

    def list(self) -> Sequence[EngineRun]:
        """All runs, oldest first."""
        with self._database.connect() as connection:
            rows = connection.execute(select(_runs).order_by(_runs.c.started_us))
            return [EngineRun(row.started_us, row.seen_us, row.nano_usd_per_hour, row.engine) for row in rows]
