"""The usage ledger: one row per request, opened durably before the engine sees it, settled once however it ends.

One thread writes. It takes whatever has queued up, writes it in one transaction and wakes the waiters (group commit),
so a row costs the event loop a queue entry and a future. A row still open when the process starts was cut off by a
crash: it is marked `interrupted`, never lost and never counted twice.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.pool import PoolProxiedConnection

from gateway.errors import DiskError
from gateway.usage import Evidence, Usage

log = logging.getLogger(__name__)

usage_ledger = Table(
    "usage_ledger",
    MetaData(),
    Column("request_id", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("opened_us", BigInteger, nullable=False),
    Column("settled_us", BigInteger),
    Column("state", String(16), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("adapter", String(64)),
    Column("digest", String(64)),
    Column("stream", Boolean, nullable=False),
    Column("status", Integer),
    Column("finish", String(16)),
    Column("evidence", String(16)),
    Column("prompt_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("ttft_us", BigInteger),
    Column("endpoint", String(64)),
    Column("engine", String(64)),
    Column("client_request_id", String(128)),
)


class Finish(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    CLIENT_ABORT = "client_abort"
    REFUSED = "refused"
    ENGINE_ERROR = "engine_error"


def now_us() -> int:
    """Microseconds since the epoch: the ledger's only unit of time."""
    return time.time_ns() // 1_000


@dataclass(slots=True)
class Entry:
    """The row of one request while it runs. Times are microseconds since the epoch."""

    request_id: str
    tenant: str
    key_id: str
    model: str
    adapter: str | None
    digest: str | None
    stream: bool
    endpoint: str
    client_request_id: str | None = None
    engine: str | None = None
    opened_us: int = field(default_factory=now_us)
    sent_s: float = 0.0
    first_byte_us: int | None = None
    chunks: int = 0
    status: int = 200
    finish: Finish = Finish.COMPLETED
    usage: Usage = field(default_factory=Usage)
    evidence: Evidence = Evidence.NONE

    def mark_sent(self) -> None:
        """Note the moment in which the engine gets the request, on `time.perf_counter`."""
        self.sent_s = time.perf_counter()

    def mark_first_byte(self) -> None:
        """Note the moment of the first byte of the answer, once."""
        if self.first_byte_us is None:
            self.first_byte_us = now_us()

    @property
    def ttft_us(self) -> int | None:
        """Time to the first byte of the answer, from the moment the request was understood."""
        return None if self.first_byte_us is None else self.first_byte_us - self.opened_us

    def opened_row(self) -> dict[str, Any]:
        """The row as it is before the engine sees the request."""
        return {
            "request_id": self.request_id,
            "attempt": 1,
            "opened_us": self.opened_us,
            "state": "open",
            "tenant": self.tenant,
            "key_id": self.key_id,
            "model": self.model,
            "adapter": self.adapter,
            "digest": self.digest,
            "stream": self.stream,
            "endpoint": self.endpoint,
            "client_request_id": self.client_request_id,
        }

    def settled_row(self) -> dict[str, Any]:
        """What settling adds; the names of the key columns are those of the update's parameters."""
        return {
            "the_request": self.request_id,
            "settled_us": now_us(),
            "status": self.status,
            "finish": self.finish,
            "evidence": self.evidence,
            "prompt_tokens": self.usage.prompt_tokens,
            "cached_tokens": self.usage.cached_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "ttft_us": self.ttft_us,
            "engine": self.engine,
        }


_OPEN = insert(usage_ledger)
_SETTLE = (
    update(usage_ledger)
    .where(usage_ledger.c.request_id == bindparam("the_request"), usage_ledger.c.state == "open")
    .values(state="settled")
)
_Write = tuple[bool, Mapping[str, Any], asyncio.Future[None]]
_MOST_ROWS = 500
# Under load a commit waits this long for company: it costs the same for one row as for fifty.
_GATHER_S = 0.001


class _Statement:
    """A statement as the driver takes it: compiling and executing through SQLAlchemy costs ten times as much."""

    def __init__(self, statement: Any, keys: Iterable[str], database: Engine) -> None:
        compiled = statement.compile(dialect=database.dialect, column_keys=list(keys))
        self._sql = str(compiled)
        self._order = compiled.positiontup
        self._defaults = {name: value for name, value in compiled.params.items() if value is not None}

    def execute(self, cursor: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it once for each row."""
        if not rows:
            return
        whole = [{**self._defaults, **row} for row in rows]
        cursor.executemany(self._sql, [tuple(row[n] for n in self._order) for row in whole] if self._order else whole)


class Ledger:
    """Writes and reads the usage ledger of one database."""

    def __init__(self, database: Engine) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        with database.begin() as connection:
            interrupted = update(usage_ledger).where(usage_ledger.c.state == "open").values(state="interrupted")
            self.interrupted_at_start = connection.execute(interrupted).rowcount
        example = Entry("", "", "", "", None, None, stream=False, endpoint="")
        self._open = _Statement(_OPEN, example.opened_row(), database)
        self._settle = _Statement(_SETTLE, [*example.settled_row(), "state"], database)
        self._connection: PoolProxiedConnection | None = None
        self._writer = threading.Thread(target=self._write_forever, name="ledger", daemon=True)
        self._writer.start()

    async def open(self, entry: Entry) -> None:
        """Return once the open row is committed; raises `DiskError` when it cannot be."""
        try:
            await self._submit(True, entry.opened_row())
        except Exception as error:
            log.exception("ledger: opening a row failed")
            raise DiskError("The usage ledger cannot be written, so no request is taken; free that disk.") from error

    def settle(self, entry: Entry) -> asyncio.Future[None]:
        """Close the row: done once committed; a row that is not open any more stays as it is."""
        return self._submit(False, entry.settled_row())

    def rows(self, *, since_us: int = 0, until_us: int | None = None) -> Sequence[Mapping[str, Any]]:
        """The rows opened in a window, oldest first."""
        query = select(usage_ledger).where(usage_ledger.c.opened_us >= since_us).order_by(usage_ledger.c.opened_us)
        if until_us is not None:
            query = query.where(usage_ledger.c.opened_us < until_us)
        with self._database.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        """Write what is queued and stop the writer."""
        self._queue.put(None)
        self._writer.join()

    def _submit(self, opening: bool, row: Mapping[str, Any]) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        self._queue.put((opening, row, done))
        return done

    def _write_forever(self) -> None:
        busy = False
        while (first := self._queue.get()) is not None:
            if busy:
                time.sleep(_GATHER_S)
            batch = [first]
            while len(batch) < _MOST_ROWS and not self._queue.empty():
                if (item := self._queue.get()) is None:
                    self._queue.put(None)
                    break
                batch.append(item)
            self._commit(batch)
            busy = len(batch) > 2
        if self._connection is not None:
            self._connection.close()

    def _commit(self, batch: Sequence[_Write]) -> None:
        error: Exception | None = None
        try:
            if self._connection is None:
                self._connection = self._database.raw_connection()
            cursor = self._connection.cursor()
            self._open.execute(cursor, [row for opening, row, _ in batch if opening])
            self._settle.execute(cursor, [row for opening, row, _ in batch if not opening])
            self._connection.commit()
        except Exception as failure:
            error = failure
            if self._connection is not None:
                self._connection.invalidate()
                self._connection = None
        loops = {done.get_loop() for _, _, done in batch}
        for loop in loops:
            futures = [done for _, _, done in batch if done.get_loop() is loop]
            loop.call_soon_threadsafe(_finish, futures, error)


def _finish(futures: Iterable[asyncio.Future[None]], error: Exception | None) -> None:
    for done in futures:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
