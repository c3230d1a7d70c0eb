"""Engine time: runs (when an engine was up, at which price per hour) and adapter loads. The bill is made of both.

A heartbeat extends the runs, so it bounds a run that crashed; a new price begins a new run.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from gateway.clock import SECOND_US, now_us
from gateway.metering.tables import adapter_loads, engine_runs

log = logging.getLogger(__name__)
_FRESH_US = 3 * SECOND_US
"""Open runs reach until now while the last heartbeat is not older than this."""


@dataclass(frozen=True)
class EngineRun:
    """One stretch of an engine being up, in microseconds since the epoch, at one price; None without a stated price."""

    started_us: int
    seen_us: int
    nano_usd_per_hour: int | None
    engine: str | None = None


@dataclass(slots=True)
class _OpenRun:
    """A run in memory; `id` is None until the database is known to have it."""

    engine: str
    started_us: int
    seen_us: int
    nano_usd_per_hour: int | None
    id: int | None = None


class EngineRuns:
    """Records engine runs; `price(engine)` returns the engine's present nano-USD per hour. Methods block.

    After a database error, uptime is kept in memory and written at the next heartbeat, so none is lost.
    """

    def __init__(self, database: Engine, price: Callable[[str], int | None]) -> None:
        self._database = database
        self._price = price
        self._open: dict[str, _OpenRun] = {}
        self._ended: list[_OpenRun] = []
        self._heartbeat_us = 0

    def heartbeat(self, up: Collection[str]) -> None:
        """Begin or extend the runs of the engines that are up now, and end all others."""
        now = self._heartbeat_us = now_us()
        self._ended += [run for engine, run in self._open.items() if engine not in up]
        self._open = {engine: run for engine, run in self._open.items() if engine in up}
        for engine in up:
            price, run = self._price(engine), self._open.get(engine)
            if run is not None:
                run.seen_us = now
            if run is None or run.nano_usd_per_hour != price:
                self._ended += [run] if run else []
                self._open[engine] = _OpenRun(engine, now, now, price)
        runs = [*self._ended, *self._open.values()]
        if not runs:
            return
        with self._database.begin() as connection:
            ids = [self._write(connection, run) for run in runs]
        for run, run_id in zip(runs, ids, strict=True):
            run.id = run_id
        self._ended.clear()

    def list(self) -> Sequence[EngineRun]:
        """Return all runs, oldest first; open ones reach until now while the heartbeat goes on."""
        now = now_us()
        open_ids = {run.id for run in self._open.values()} if now - self._heartbeat_us < _FRESH_US else set()
        with self._database.connect() as connection:
            rows = connection.execute(select(engine_runs).order_by(engine_runs.c.started_us)).all()
        return [
            EngineRun(
                row.started_us,
                max(row.seen_us, now) if row.id in open_ids else row.seen_us,
                row.nano_usd_per_hour,
                row.engine,
            )
            for row in rows
        ]

    @staticmethod
    def _write(connection: Connection, run: _OpenRun) -> int:
        """Insert or update the run's row and return its id.

        An earlier commit may have succeeded although it looked failed, so the row is looked up by its start as well.
        """
        row, seen = engine_runs.c, {"seen_us": run.seen_us}
        if run.id is not None and connection.execute(update(engine_runs).where(row.id == run.id).values(seen)).rowcount:
            return run.id
        this = (row.engine == run.engine, row.started_us == run.started_us)
        known = connection.execute(update(engine_runs).where(*this).values(seen).returning(row.id)).scalars().first()
        if known is not None:
            return int(known)
        values = {
            "started_us": run.started_us,
            "engine": run.engine,
            "nano_usd_per_hour": run.nano_usd_per_hour,
            **seen,
        }
        return int(connection.execute(insert(engine_runs).values(values).returning(row.id)).scalar_one())


class AdapterLoads:
    """Records the time that engines spend loading adapters; a load that cannot be recorded is logged and stays done."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def recorder(self, engine: str) -> Callable[[str, float], None]:
        """Return the callback of an engine's loader, called with adapter and seconds after each load; it blocks."""

        def record(adapter: str, load_s: float) -> None:
            load_us = int(load_s * SECOND_US)
            row = {"at_us": now_us() - load_us, "load_us": load_us, "engine": engine, "adapter": adapter}
            try:
                with self._database.begin() as connection:
                    connection.execute(insert(adapter_loads).values(row))
            except SQLAlchemyError:
                log.exception("the load of %s on %s is missing from the bill", adapter, engine)

        return record
