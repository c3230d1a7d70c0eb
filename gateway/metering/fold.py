"""Spending: what keys and tenants have spent by day, booked in the very transaction that settles the ledger's rows.

So it cannot differ from the ledger: a row that is settled twice, or folded again after a crash, is booked once, and one
that arrives late is booked on the day on which its request came.

The ledger's table, and how lines of the journal become its rows. Folding the same lines twice changes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    cast,
    func,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql

from gateway.clock import DAY_US
from gateway.database import upsert
from gateway.metering.entry import CHARGED, OPENED, PROGRESS, SETTLED

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
    Column("cost_nano_usd", BigInteger),
    Column("gateway", String(16)),
    Column("gateway_run", String(16)),
    Column("latency_us", BigInteger),
    Column("price_version", String(32)),
    Column("engine_run", String(64)),
    Column("choices", Integer, nullable=False, server_default="1"),
    Column("error_code", String(64)),
    Column("error_message", String(320)),
    Column("queue_us", BigInteger),
)

COLUMNS = (
    "request_id",
    "opened_us",
    "tenant",
    "key_id",
    "model",
    "adapter",
    "digest",
    "stream",
    "endpoint",
    "client_request_id",
    "state",
    "settled_us",
    "status",
    "finish",
    "evidence",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "ttft_us",
    "engine",
    "cost_nano_usd",
    "attempt",
    "gateway",
    "gateway_run",
    "latency_us",
    "price_version",
    "engine_run",
    "choices",
    "error_code",
    "error_message",
    "queue_us",
)
"""What a line holds, in this order; the lines of older versions end earlier."""
Row = Sequence[Any]
"""The values of COLUMNS."""
_KEY = ("request_id", "attempt")
_ATTEMPT, _CHOICES = COLUMNS.index("attempt"), COLUMNS.index("choices")
_GATEWAY, _RUN = COLUMNS.index("gateway"), COLUMNS.index("gateway_run")
_AT_ONCE = (32, 4, 1)


def rows_of(lines: Iterable[bytes], gateway: str, run: str) -> tuple[list[Row], list[Row]]:
    """What lines, each a letter and a JSON array, make of the rows that they are of; and which of these are charged.

    Lines of older versions do not name their gateway: it is the one whose journal they are in. Raises `ValueError`.
    """
    running: dict[tuple[str, int], Row] = {}
    settled: dict[tuple[str, int], Row] = {}
    charged = []
    for line in lines:
        kind, row = line[:1], _whole(orjson.loads(line[1:]), gateway, run)
        key = (row[0], row[_ATTEMPT])
        if kind not in (SETTLED, CHARGED):
            running[key] = row
        elif key not in settled:
            settled[key] = row
            if kind == CHARGED:
                charged.append(row)
    return list((running | settled).values()), charged


def _whole(values: list[Any], gateway: str, run: str) -> Row:
    if len(values) < len(COLUMNS):
        values += [None] * (len(COLUMNS) - len(values))
        values[_ATTEMPT] = values[_ATTEMPT] or 1
        values[_CHOICES] = values[_CHOICES] or 1
    if not values[_GATEWAY]:
        values[_GATEWAY], values[_RUN] = gateway, run
    return values


def demand_whole(line: bytes) -> None:
    """Raise `ValueError` unless a line is a letter and an array of what its columns hold.

    Only asked of lines of a batch that failed: a line that one database would take as it is may be nonsense to readers.
    """
    values = orjson.loads(line[1:])
    if line[:1] not in (OPENED, PROGRESS, SETTLED, CHARGED) or not isinstance(values, list):
        raise ValueError("it is no line of a journal")
    if len(values) > len(COLUMNS):
        raise ValueError("it has too many values")
    for name, value in zip(COLUMNS, values, strict=False):
        kind = usage_ledger.c[name].type.python_type
        if value is not None and type(value) is not kind and not (kind is int and isinstance(value, float)):
            raise ValueError(f"its {name} is no {kind.__name__}")


class Folding:
    """The statements that write rows into the table, for one database dialect; what is settled already stays as it is.

    SQLite binds the values of many rows to one statement: it reads JSON three times as slowly, and `executemany` gives
    up Python's interpreter lock, and has to win it back from a busy event loop, at each row. PostgreSQL reads JSON
    itself, in a process of its own. Neither is an UPDATE: PostgreSQL without statistics, and SQLite by another index,
    would read the whole table for each row.
    """

    def __init__(self, dialect: str) -> None:
        self._is_sqlite = dialect == "sqlite"

    def fold(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Write rows, no two of the same request and attempt."""
        if not self._is_sqlite:
            connection.execute(_FROM_JSON, {"rows": orjson.dumps(rows).decode()})
            return
        start = 0
        for size in _AT_ONCE:
            while start + size <= len(rows):
                values = tuple(chain.from_iterable(rows[start : start + size]))
                connection.exec_driver_sql(_OF_VALUES[size], values)
                start += size


def _of_values(rows: int) -> str:
    row = f"({', '.join('?' * len(COLUMNS))})"
    changes = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in _KEY)
    return (
        f"INSERT INTO usage_ledger ({', '.join(COLUMNS)}) VALUES {', '.join([row] * rows)} "  # noqa: S608 - constants
        f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {changes} WHERE usage_ledger.settled_us IS NULL"
    )


def _from_json() -> Any:
    row = func.json_array_elements(cast(bindparam("rows", type_=String), JSON)).table_valued("value", name="rows")
    values = [cast(row.c.value.op("->>")(i), usage_ledger.c[name].type) for i, name in enumerate(COLUMNS)]
    insert = postgresql.insert(usage_ledger).from_select(COLUMNS, select(*values).select_from(row))
    changes = {name: insert.excluded[name] for name in COLUMNS if name not in _KEY}
    return insert.on_conflict_do_update(index_elements=_KEY, set_=changes, where=usage_ledger.c.settled_us.is_(None))


_OF_VALUES = {size: _of_values(size) for size in _AT_ONCE}
_FROM_JSON = _from_json()


spending = Table(
    "spending",
    MetaData(),
    Column("account", String(80), primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("nano_usd", BigInteger, nullable=False),
)
"""Days are counted since the epoch, by UTC; accounts are `key:<key id>` and `tenant:<name>`."""


_read = itemgetter(*map(COLUMNS.index, ("request_id", "attempt", "opened_us", "key_id", "tenant", "cost_nano_usd")))


class Cost(NamedTuple):
    """What one request cost, whose, and the day of which budget pays it."""

    opened_us: int
    key_id: str
    tenant: str
    nano_usd: int


class Booking:
    """The statements that book what rows cost which nobody has booked, for one database dialect."""

    def __init__(self, dialect: str) -> None:
        is_sqlite = dialect == "sqlite"
        ids: Any = bindparam("ids", type_=String)
        each = func.json_each(ids) if is_sqlite else func.json_array_elements_text(cast(ids, JSON))
        row = usage_ledger.c
        # A row that was cut off has a cost only when it was booked with it, see `reconcile/recovery.py`.
        is_booked = or_(row.settled_us.is_not(None), row.cost_nano_usd.is_not(None))
        self._booked = select(row.request_id, row.attempt).where(
            row.request_id.in_(select(each.table_valued("value").c.value)), is_booked
        )
        self._add = upsert(dialect, spending, add=["nano_usd"])

    def book(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Add what these rows cost; call it before they are written as settled."""
        costly = [values for values in map(_read, rows) if values[-1]]
        if not costly:
            return
        ids = orjson.dumps([request_id for request_id, *_ in costly]).decode()
        booked = {(request_id, attempt) for request_id, attempt in connection.execute(self._booked, {"ids": ids})}
        self.add(
            connection, [Cost(*rest) for request_id, attempt, *rest in costly if (request_id, attempt) not in booked]
        )

    def add(self, connection: Connection, costs: Iterable[Cost]) -> None:
        """Add costs to what keys and tenants have spent."""
        sums: Counter[tuple[str, int]] = Counter()
        for cost in costs:
            for account in (f"key:{cost.key_id}", f"tenant:{cost.tenant}"):
                sums[account, cost.opened_us // DAY_US] += cost.nano_usd
        # In order, so that gateways that book at the same moment never wait for each other in a circle.
        news = [{"account": account, "day": day, "nano_usd": total} for (account, day), total in sorted(sums.items())]
        if news:
            connection.execute(self._add, news)
