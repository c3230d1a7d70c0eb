"""Engine runs: when an engine was up, at which price. The bill is made of these; a heartbeat bounds a run that
crashed, and a new price begins a new run.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
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

_FRESH_US = 3 * 10**6


@dataclass(frozen=True)
class EngineRun:
    """One stretch of an engine being up, in microseconds since the epoch; the price is None when nobody stated one."""

    started_us: int
    seen_us: int
    nano_usd_per_hour: int | None
    engine: str | None = None


class EngineRuns:
    """Reads and writes engine runs; `price` says what an hour of an engine costs now. Methods block."""

    def __init__(self, database: Engine, price: Callable[[str], int | None]) -> None:
        self._database = database
        self._price = price
        self._open: dict[str, tuple[int, int | None]] = {}
        self._beat_us = 0

    def heartbeat(self, up: Collection[str]) -> None:
        """The engines that are up at this moment: begins their runs, or extends them; other runs have ended."""
        now = self._beat_us = now_us()
        prices = {engine: self._price(engine) for engine in up}
        ended = {engine: run for engine, run in self._open.items() if engine in prices}
        self._open = {engine: run for engine, run in ended.items() if run[1] == prices[engine]}
        if not up:
            return
        with self._database.begin() as connection:
            going_on = [run_id for run_id, _ in ended.values()]
            connection.execute(update(_runs).where(_runs.c.id.in_(going_on)).values(seen_us=now))
            for engine in prices.keys() - self._open.keys():
                values: dict[str, Any] = {"started_us": now, "seen_us": now, "engine": engine}
                values["nano_usd_per_hour"] = prices[engine]
                key = connection.execute(insert(_runs).values(values)).inserted_primary_key
                assert key is not None, "an insert into one row yields its key"
                self._open[engine] = (key[0], prices[engine])

    def list(self) -> Sequence[EngineRun]:
        """All runs, oldest first; those that go on reach until now, as long as the heart beats."""
        now = now_us()
        going_on = {run_id for run_id, _ in self._open.values()} if now - self._beat_us < _FRESH_US else set()
        with self._database.connect() as connection:
            rows = connection.execute(select(_runs).order_by(_runs.c.started_us)).all()
        return [
            EngineRun(row.started_us, max(row.seen_us, now) if row.id in going_on else row.seen_us,
                      row.nano_usd_per_hour, row.engine)
            for row in rows
        ]  # fmt: skip
