"""Engine runs: when an engine was up, at which price. The bill is made of these; a heartbeat bounds a run that
crashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, Table, insert, select, update

from gateway.ledger import now_us

_runs = Table(
    "engine_runs",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("started_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
    Column("nano_usd_per_hour", BigInteger),
)


@dataclass(frozen=True)
class EngineRun:
    """One stretch of an engine being up, in microseconds since the epoch; the price is None when nobody stated one."""

    started_us: int
    seen_us: int
    nano_usd_per_hour: int | None


class EngineRuns:
    """Reads and writes engine runs; methods block."""

    def __init__(self, database: Engine, usd_per_hour: Decimal | None) -> None:
        self._database = database
        self._nano_usd_per_hour = None if usd_per_hour is None else int(usd_per_hour * 10**9)
        self._run_id: int | None = None

    def heartbeat(self) -> None:
        """The engine is up at this moment: begins a run, or extends the present one."""
        now = now_us()
        with self._database.begin() as connection:
            if self._run_id is None:
                values = {"started_us": now, "seen_us": now, "nano_usd_per_hour": self._nano_usd_per_hour}
                key = connection.execute(insert(_runs).values(values)).inserted_primary_key
                assert key is not None, "an insert into one row yields its key"
                self._run_id = key[0]
            else:
                connection.execute(update(_runs).where(_runs.c.id == self._run_id).values(seen_us=now))

    def end(self) -> None:
        """The engine is not up any more; the next heartbeat begins another run."""
        self._run_id = None

    def list(self) -> Sequence[EngineRun]:
        """All runs, oldest first."""
        with self._database.connect() as connection:
            rows = connection.execute(select(_runs).order_by(_runs.c.started_us))
            return [EngineRun(row.started_us, row.seen_us, row.nano_usd_per_hour) for row in rows]
