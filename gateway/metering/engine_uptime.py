"""Engine runs: when an engine was up, at which price. The bill is made of these; a heartbeat bounds a run that
crashed, and a new price begins a new run.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Engine, Integer, MetaData, String, Table, insert, select, update

from gateway.clock import now_us

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


@dataclass(slots=True)
class _Open:
    """A run as this gateway knows it; `id` is None until the database is known to have it."""

    engine: str
    started_us: int
    seen_us: int
    nano_usd_per_hour: int | None
    id: int | None = None


class EngineRuns:
    """Reads and writes engine runs; `price` says what an hour of an engine costs now. Methods block.

    What the database did not take is kept here and written at the next heartbeat: no time of an engine is lost.
    """

    def __init__(self, database: Engine, price: Callable[[str], int | None]) -> None:
        self._database = database
        self._price = price
        self._open: dict[str, _Open] = {}
        self._ended: list[_Open] = []
        self._beat_us = 0

    def heartbeat(self, up: Collection[str]) -> None:
        """The engines that are up at this moment: begins their runs, or extends them; other runs have ended."""
        now = self._beat_us = now_us()
        self._ended += [run for engine, run in self._open.items() if engine not in up]
        self._open = {engine: run for engine, run in self._open.items() if engine in up}
        for engine in up:
            price, run = self._price(engine), self._open.get(engine)
            if run is not None:
                run.seen_us = now
            if run is None or run.nano_usd_per_hour != price:
                self._ended += [run] if run else []
                self._open[engine] = _Open(engine, now, now, price)
        runs = [*self._ended, *self._open.values()]
        if not runs:
            return
        with self._database.begin() as connection:
            ids = [self._write(connection, run) for run in runs]
        for run, run_id in zip(runs, ids, strict=True):
            run.id = run_id
        self._ended.clear()

    @staticmethod
    def _write(connection: Connection, run: _Open) -> int:
        """Make the database's row what is known here; a commit may have come through although nobody heard of it."""
        row, seen = _runs.c, {"seen_us": run.seen_us}
        if run.id is not None and connection.execute(update(_runs).where(row.id == run.id).values(seen)).rowcount:
            return run.id
        this = (row.engine == run.engine, row.started_us == run.started_us)
        known = connection.execute(update(_runs).where(*this).values(seen).returning(row.id)).scalars().first()
        if known is not None:
            return int(known)
        values = {
            "started_us": run.started_us,
            "engine": run.engine,
            "nano_usd_per_hour": run.nano_usd_per_hour,
            **seen,
        }
        return int(connection.execute(insert(_runs).values(values).returning(row.id)).scalar_one())

    def list(self) -> Sequence[EngineRun]:
        """All runs, oldest first; those that go on reach until now, as long as the heart beats."""
        now = now_us()
        going_on = {run.id for run in self._open.values()} if now - self._beat_us < _FRESH_US else set()
        with self._database.connect() as connection:
            rows = connection.execute(select(_runs).order_by(_runs.c.started_us)).all()
        return [
            EngineRun(row.started_us, max(row.seen_us, now) if row.id in going_on else row.seen_us,
                      row.nano_usd_per_hour, row.engine)
            for row in rows
        ]  # fmt: skip
