"""Token counters of engines by run: read when an engine comes up and periodically, and stored.

A run is identified by the creation time of its counters, so that several gateways on one engine use the same run.
Tokens counted before the first reading of a run are not on the ledger. An engine that reports no creation time begins a
new run with each gateway process, and whenever its counters fall.
"""

import logging
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from gateway.clock import now_us
from gateway.engines.client import EngineClient, EngineCounters
from gateway.errors import GatewayError
from gateway.metering.tables import TOKEN_KINDS, engine_counts
from gateway.threads import REPORTS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CountedTokens:
    """Tokens as an engine counts them: a prompt once for each choice."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "CountedTokens") -> "CountedTokens":
        return CountedTokens(*(getattr(self, kind) + getattr(other, kind) for kind in TOKEN_KINDS))


@dataclass(frozen=True, slots=True)
class CounterReading:
    """An engine's counters, read between two times."""

    asked_us: int
    seen_us: int
    counters: EngineCounters


@dataclass(frozen=True, slots=True)
class EngineRunCounters:
    """One run of an engine at its last reading, which was taken between `asked_us` and `seen_us`."""

    run: str
    engine: str
    first_us: int
    asked_us: int
    seen_us: int
    counted: CountedTokens
    """Counted by the engine since the first reading."""
    pruned: CountedTokens
    """Booked by rows that are pruned from the ledger."""
    pruned_rows: int


class EngineCounterStore:
    """Stores counter readings by run; methods block. `process` is the run of this gateway."""

    def __init__(self, database: Engine, process: str) -> None:
        self._database = database
        self._process = process
        self._unnamed: dict[str, tuple[str, EngineCounters]] = {}

    def record(self, engine: str, reading: CounterReading) -> str:
        """Store a reading and return its run, which begins with it if it is new."""
        run = reading.counters.began or self._name_run(engine, reading.counters)
        times = {"asked_us": reading.asked_us, "seen_us": reading.seen_us}
        last = {f"last_{kind}": getattr(reading.counters, kind) for kind in TOKEN_KINDS}
        row = engine_counts.c
        with self._database.begin() as connection:
            newer = update(engine_counts).where(row.run == run, row.asked_us < reading.asked_us)
            if connection.execute(newer.values(times | last)).rowcount:
                return run
            if connection.execute(select(row.run).where(row.run == run)).first() is not None:
                return run  # another gateway stored a later reading
        first = {f"first_{kind}": getattr(reading.counters, kind) for kind in TOKEN_KINDS}
        values = {"run": run, "engine": engine, "first_us": reading.asked_us} | times | first | last
        try:
            with self._database.begin() as connection:
                connection.execute(insert(engine_counts).values(values))
        except IntegrityError:
            return self.record(engine, reading)  # another gateway was faster
        return run

    def list(self, since_us: int = 0) -> list[EngineRunCounters]:
        """Return the runs read since then, newest first."""
        query = select(engine_counts).where(engine_counts.c.seen_us >= since_us)
        with self._database.connect() as connection:
            rows = connection.execute(query.order_by(engine_counts.c.first_us.desc())).all()
        return [
            EngineRunCounters(
                row.run,
                row.engine,
                row.first_us,
                row.asked_us,
                row.seen_us,
                CountedTokens(*(getattr(row, f"last_{kind}") - getattr(row, f"first_{kind}") for kind in TOKEN_KINDS)),
                CountedTokens(*(getattr(row, f"pruned_{kind}") for kind in TOKEN_KINDS)),
                row.pruned_rows,
            )
            for row in rows
        ]

    def _name_run(self, engine: str, counters: EngineCounters) -> str:
        """Name the run of an engine that reports no creation time; a new one when its counters fell."""
        run, before = self._unnamed.get(engine, ("", counters))
        if not run or any(getattr(counters, kind) < getattr(before, kind) for kind in TOKEN_KINDS):
            run = f"{self._process}-{engine}-{now_us():x}"
        self._unnamed[engine] = run, counters
        return run


class EngineCounterReader:
    """Reads the counters of engines into the store."""

    def __init__(self, store: EngineCounterStore) -> None:
        self._store = store

    async def read(self, engine: str, client: EngineClient) -> str | None:
        """Read one engine's counters; returns its run, None when it reports none or cannot be asked.

        Call it before the engine gets its first request: tokens counted earlier are not on the ledger.
        """
        try:
            asked_us = now_us()
            counters = await client.counters()
            if counters is None:
                return None
            return await REPORTS.run(self._store.record, engine, CounterReading(asked_us, now_us(), counters))
        except (GatewayError, SQLAlchemyError):
            log.warning("the counters of %s cannot be read", engine, exc_info=True)
            return None
