"""What the engines counted, run by run: when a gateway first saw a run, and when it was last asked.

A run is told by its counters' own birthday, so that several gateways on one engine mean the same run. What an engine
counted before anybody here saw it is not ours. An engine that tells no birthday begins a run with each gateway process,
and whenever its counters fall.

Reading the counters of engines: when an engine comes up, and again and again while it serves.
"""

import logging
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from gateway.clock import now_us
from gateway.engines.client import EngineClient, EngineCounters
from gateway.errors import GatewayError
from gateway.threads import REPORTS

KINDS = ("prompt_tokens", "cached_tokens", "completion_tokens")

engine_counts = Table(
    "engine_counts",
    MetaData(),
    Column("run", String(64), primary_key=True),
    Column("engine", String(64), nullable=False),
    Column("first_us", BigInteger, nullable=False),
    Column("asked_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
    *(Column(f"{moment}_{kind}", BigInteger, nullable=False) for moment in ("first", "last") for kind in KINDS),
    Column("pruned_rows", BigInteger, nullable=False, server_default="0"),
    *(Column(f"pruned_{kind}", BigInteger, nullable=False, server_default="0") for kind in KINDS),
)


@dataclass(frozen=True, slots=True)
class CountedTokens:
    """Tokens as an engine counts them: a prompt once for each answer to it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "CountedTokens") -> "CountedTokens":
        return CountedTokens(*(getattr(self, kind) + getattr(other, kind) for kind in KINDS))


@dataclass(frozen=True, slots=True)
class EngineRunCounters:
    """One run of an engine as last asked: `counted` since we first saw it, read between `asked_us` and `seen_us`."""

    run: str
    engine: str
    first_us: int
    asked_us: int
    seen_us: int
    counted: CountedTokens
    pruned: CountedTokens
    pruned_rows: int


@dataclass(frozen=True, slots=True)
class Reading:
    """An engine's counters, read between two moments."""

    asked_us: int
    seen_us: int
    counters: EngineCounters


class EngineCounterStore:
    """Keeps what engines counted; methods block. `process` names this gateway's process."""

    def __init__(self, database: Engine, process: str) -> None:
        self._database = database
        self._process = process
        self._nameless: dict[str, tuple[str, EngineCounters]] = {}

    def take(self, engine: str, reading: Reading) -> str:
        """Keep a reading; returns the run that it is of, which it begins when nobody knew it."""
        run = reading.counters.began or self._named(engine, reading.counters)
        told = {"asked_us": reading.asked_us, "seen_us": reading.seen_us}
        last = {f"last_{kind}": getattr(reading.counters, kind) for kind in KINDS}
        row = engine_counts.c
        with self._database.begin() as connection:
            newer = update(engine_counts).where(row.run == run, row.asked_us < reading.asked_us)
            if connection.execute(newer.values(told | last)).rowcount:
                return run
            if connection.execute(select(row.run).where(row.run == run)).first() is not None:
                return run  # another gateway was there a moment later
        first = {f"first_{kind}": getattr(reading.counters, kind) for kind in KINDS}
        values = {"run": run, "engine": engine, "first_us": reading.asked_us} | told | first | last
        try:
            with self._database.begin() as connection:
                connection.execute(insert(engine_counts).values(values))
        except IntegrityError:
            return self.take(engine, reading)  # another gateway was faster
        return run

    def list(self, since_us: int = 0) -> list[EngineRunCounters]:
        """Runs that were seen since then, the newest first."""
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
                CountedTokens(*(getattr(row, f"last_{kind}") - getattr(row, f"first_{kind}") for kind in KINDS)),
                CountedTokens(*(getattr(row, f"pruned_{kind}") for kind in KINDS)),
                row.pruned_rows,
            )
            for row in rows
        ]

    def _named(self, engine: str, counters: EngineCounters) -> str:
        """A name for the run of an engine that has none, new when its counters fell."""
        run, before = self._nameless.get(engine, ("", counters))
        if not run or any(getattr(counters, kind) < getattr(before, kind) for kind in KINDS):
            run = f"{self._process}-{engine}-{now_us():x}"
        self._nameless[engine] = run, counters
        return run


log = logging.getLogger(__name__)


class EngineCounterReader:
    """Asks engines and keeps what they say."""

    def __init__(self, counts: EngineCounterStore) -> None:
        self._counts = counts

    async def read(self, engine: str, client: EngineClient) -> str | None:
        """Read one engine's counters; returns the run that it is in, None when it tells none or cannot be asked.

        Requests must not go to an engine before this was done: what it worked earlier is not ours.
        """
        try:
            asked_us = now_us()
            counters = await client.counters()
            if counters is None:
                return None
            return await REPORTS.run(self._counts.take, engine, Reading(asked_us, now_us(), counters))
        except (GatewayError, SQLAlchemyError):
            log.warning("the counters of %s cannot be read", engine, exc_info=True)
            return None
