"""The fold: journal lines become rows of the ledger, and their costs are booked as spending, in one transaction.

So spending cannot differ from the ledger: a row that is settled twice, or folded again after a crash, is booked once,
and one that arrives late is booked on the day of its request. Folding the same lines twice changes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import JSON, Connection, String, bindparam, cast, func, or_, select
from sqlalchemy.dialects import postgresql

from gateway.clock import DAY_US
from gateway.database import upsert
from gateway.metering.entry import CHARGED, COLUMNS, OPENED, PROGRESS, SETTLED
from gateway.metering.tables import spending, usage_ledger

Row = Sequence[Any]
"""The values of `COLUMNS`."""
_KEY = ("request_id", "attempt")
_ATTEMPT, _CHOICES = COLUMNS.index("attempt"), COLUMNS.index("choices")
_GATEWAY, _RUN = COLUMNS.index("gateway"), COLUMNS.index("gateway_run")
_BATCHES = (32, 4, 1)
"""Rows per SQLite statement, largest first."""
_read_cost = itemgetter(
    *map(COLUMNS.index, ("request_id", "attempt", "opened_us", "key_id", "tenant", "cost_nano_usd"))
)


def parse_lines(lines: Iterable[bytes], gateway: str, run: str) -> tuple[list[Row], list[Row]]:
    """Parse journal lines (kind byte + JSON array) into the latest row of each request and attempt.

    Also returns the settled rows whose cost is to be charged. Lines of older versions do not name their gateway: it is
    the one whose journal they are in. Raises `ValueError`.
    """
    running: dict[tuple[str, int], Row] = {}
    settled: dict[tuple[str, int], Row] = {}
    charged = []
    for line in lines:
        kind, row = line[:1], _complete(orjson.loads(line[1:]), gateway, run)
        key = (row[0], row[_ATTEMPT])
        if kind not in (SETTLED, CHARGED):
            running[key] = row
        elif key not in settled:
            settled[key] = row
            if kind == CHARGED:
                charged.append(row)
    return list((running | settled).values()), charged


def _complete(values: list[Any], gateway: str, run: str) -> Row:
    """Fill in the columns that lines of older versions lack."""
    if len(values) < len(COLUMNS):
        values += [None] * (len(COLUMNS) - len(values))
        values[_ATTEMPT] = values[_ATTEMPT] or 1
        values[_CHOICES] = values[_CHOICES] or 1
    if not values[_GATEWAY]:
        values[_GATEWAY], values[_RUN] = gateway, run
    return values


def validate_line(line: bytes) -> None:
    """Raise `ValueError` unless a line is a kind byte and an array of values of its columns' types.

    Only called for lines of a batch that failed. SQLite would take values of any type, and readers would fail later.
    """
    values = orjson.loads(line[1:])
    if line[:1] not in (OPENED, PROGRESS, SETTLED, CHARGED) or not isinstance(values, list):
        raise ValueError("it is not a journal line")
    if len(values) > len(COLUMNS):
        raise ValueError("it has too many values")
    for name, value in zip(COLUMNS, values, strict=False):
        kind = usage_ledger.c[name].type.python_type
        if value is not None and type(value) is not kind and not (kind is int and isinstance(value, float)):
            raise ValueError(f"its {name} is no {kind.__name__}")


class RowWriter:
    """Upserts ledger rows, for one database dialect; rows that are settled already stay as they are.

    SQLite binds the values of many rows to one statement: it reads JSON three times as slowly, and `executemany` gives
    up Python's interpreter lock, and has to win it back from a busy event loop, at each row. PostgreSQL reads JSON
    itself, in a process of its own. Neither is an UPDATE: PostgreSQL without statistics, and SQLite by another index,
    would read the whole table for each row.
    """

    def __init__(self, dialect: str) -> None:
        self._is_sqlite = dialect == "sqlite"

    def write(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Write rows, no two of them of the same request and attempt."""
        if not self._is_sqlite:
            connection.execute(_FROM_JSON, {"rows": orjson.dumps(rows).decode()})
            return
        start = 0
        for size in _BATCHES:
            while start + size <= len(rows):
                values = tuple(chain.from_iterable(rows[start : start + size]))
                connection.exec_driver_sql(_FROM_VALUES[size], values)
                start += size


def _from_values(rows: int) -> str:
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


_FROM_VALUES = {size: _from_values(size) for size in _BATCHES}
_FROM_JSON = _from_json()


class RequestCost(NamedTuple):
    """The cost of one request, its key and tenant, and the time that decides which day's spending it belongs to."""

    opened_us: int
    key_id: str
    tenant: str
    nano_usd: int


class SpendingWriter:
    """Adds the cost of settled rows to `spending`, for one database dialect."""

    def __init__(self, dialect: str) -> None:
        ids: Any = bindparam("ids", type_=String)
        is_sqlite = dialect == "sqlite"
        each = func.json_each(ids) if is_sqlite else func.json_array_elements_text(cast(ids, JSON))
        row = usage_ledger.c
        # An interrupted row has a cost only when it was booked with it, see `reconcile/recovery.py`.
        is_booked = or_(row.settled_us.is_not(None), row.cost_nano_usd.is_not(None))
        self._booked = select(row.request_id, row.attempt).where(
            row.request_id.in_(select(each.table_valued("value").c.value)), is_booked
        )
        self._add = upsert(dialect, spending, add=["nano_usd"])

    def add_rows(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Add the cost of newly settled rows, skipping rows already booked; call it before the rows are written."""
        costly = [values for values in map(_read_cost, rows) if values[-1]]
        if not costly:
            return
        ids = orjson.dumps([request_id for request_id, *_ in costly]).decode()
        booked = {(request_id, attempt) for request_id, attempt in connection.execute(self._booked, {"ids": ids})}
        self.add(
            connection,
            [RequestCost(*rest) for request_id, attempt, *rest in costly if (request_id, attempt) not in booked],
        )

    def add(self, connection: Connection, costs: Iterable[RequestCost]) -> None:
        """Add costs to the spending of their keys and tenants."""
        sums: Counter[tuple[str, int]] = Counter()
        for cost in costs:
            for account in (f"key:{cost.key_id}", f"tenant:{cost.tenant}"):
                sums[account, cost.opened_us // DAY_US] += cost.nano_usd
        # In order, so that gateways that book at the same moment never wait for each other in a circle.
        rows = [{"account": account, "day": day, "nano_usd": total} for (account, day), total in sorted(sums.items())]
        if rows:
            connection.execute(self._add, rows)
