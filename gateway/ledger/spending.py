"""Spending: what keys and tenants have spent by day, booked in the very transaction that settles the ledger's rows.

So it cannot differ from the ledger: a row that is settled twice, or folded again after a crash, is booked once, and one
that arrives late is booked on the day on which its request came.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    JSON,
    BigInteger,
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
from sqlalchemy.dialects import postgresql, sqlite

from gateway.ledger.table import COLUMNS, Row, usage_ledger

DAY_US = 86_400 * 10**6

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
        insert: Any = (sqlite if is_sqlite else postgresql).insert(spending)
        self._add = insert.on_conflict_do_update(
            index_elements=["account", "day"], set_={"nano_usd": spending.c.nano_usd + insert.excluded.nano_usd}
        )

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
