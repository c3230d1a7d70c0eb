"""Budget leases: each gateway holds part of every budget that it uses, granted by the database, with an expiry.

Spent amounts are those of the ledger. A lease expires when its gateway dies or does not renew it. Every change of a
lease locks the row of its budget first, so that spent and leased amounts never exceed the budget. Periods begin at
midnight UTC.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    func,
    select,
    text,
    update,
)

from gateway.auth import Period
from gateway.clock import date_of, day_number, now_us
from gateway.database import upsert
from gateway.metering import spending
from gateway.money import usd_text

LEASE_US = 90 * 10**6
"""Lifetime of a lease; a shorter outage of the database rejects no request."""
_WANTED_US = 3 * 10**6
_ADVANCE_DIVISOR = 4
"""A grant includes 1/4 of the remaining budget in advance."""
_NO_LAST_DAY = 1 << 30
_CLOCK = text("SELECT extract(epoch FROM clock_timestamp()) * 1000000")
_KEY = ("account", "period", "first_day")


def first_day(period: Period, day: int) -> int:
    """Return the first day of the period that contains a day (days since the epoch); 0 for TOTAL."""
    match period:
        case Period.DAY:
            return day
        case Period.MONTH:
            return day_number(date_of(day).replace(day=1))
        case Period.TOTAL:
            return 0


def renews_at(period: Period, first: int) -> datetime | None:
    """Return the end of the period that begins on day `first`; None for TOTAL."""
    match period:
        case Period.DAY:
            after = date_of(first) + timedelta(days=1)
        case Period.MONTH:
            after = (date_of(first) + timedelta(days=31)).replace(day=1)
        case Period.TOTAL:
            return None
    return datetime(after.year, after.month, after.day, tzinfo=UTC)


def last_day(period: Period, first: int) -> int | None:
    """Return the last day of the period that begins on day `first`; None for TOTAL."""
    after = renews_at(period, first)
    return None if after is None else day_number(after.date()) - 1


@dataclass(frozen=True, slots=True, order=True)
class BudgetKey:
    """Identifies a budget: account, period, and the first day of the period (days since the epoch)."""

    account: str
    period: Period
    first_day: int


@dataclass(slots=True)
class BudgetLease:
    """This gateway's lease of a budget, in nano-USD.

    The amount `held` is free, `reserved` by running requests, or `spent_here` by requests whose rows may not be in the
    database yet.
    """

    key: BudgetKey
    limit: int
    held: int = 0
    reserved: int = 0
    spent_here: int = 0
    until_s: float = 0.0
    """Expiry of the lease, on the clock of `Budgets`."""
    is_frozen: bool = False
    """No reservations are made while a renewal may shrink the lease."""
    used_s: float = 0.0
    spent: int = 0
    """Spent amount in the database at the last renewal."""
    refused_s: float = -1e9
    """When the database last could not grant the wanted amount."""

    def has(self, nano_usd: int, now_s: float) -> bool:
        """Whether an amount can be reserved now."""
        return self.held - self.reserved - self.spent_here >= nano_usd and now_s < self.until_s and not self.is_frozen

    @property
    def left(self) -> int:
        """Remaining budget, without reservations, as far as this gateway knows."""
        return max(0, self.limit - self.spent - self.spent_here)

    @property
    def use(self) -> float:
        """Spent share of the budget, as far as this gateway knows."""
        return 1.0 if not self.limit else (self.spent + self.spent_here) / self.limit

    def name(self) -> str:
        """Describe the budget for messages, with the time of its renewal."""
        whose = "this key" if self.key.account.startswith("key:") else "this key's tenant"
        renewed = renews_at(self.key.period, self.key.first_day)
        when = "does not renew" if renewed is None else f"renews at {renewed.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        per = "in all" if self.key.period is Period.TOTAL else f"per {self.key.period}"
        return f"the budget of {whose} ({usd_text(self.limit)} {per}; it {when})"


metadata = MetaData()

budget_periods = Table(
    "budget_periods",
    metadata,
    Column("account", String(80), primary_key=True),
    Column("period", String(8), primary_key=True),
    Column("first_day", Integer, primary_key=True),
    Column("wanted_us", BigInteger, nullable=False),
)
budget_leases = Table(
    "budget_leases",
    metadata,
    Column("account", String(80), primary_key=True),
    Column("period", String(8), primary_key=True),
    Column("first_day", Integer, primary_key=True),
    Column("gateway", String(32), primary_key=True),
    Column("nano_usd", BigInteger, nullable=False),
    Column("until_us", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """Request for one lease, in nano-USD: `floor` is reserved or spent already, `wanted` is new.

    A grant for `wanted` includes part of the remaining budget in advance, for requests to come.
    """

    key: BudgetKey
    limit: int
    floor: int
    wanted: int


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """The new amount of a lease, and the spent amount of its budget in the ledger, in nano-USD."""

    nano_usd: int
    spent: int


class BudgetLeaseStore:
    """Stores the leases of this gateway (run id `run`) in the database; methods block."""

    def __init__(self, database: Engine, run: str, clock_us: Callable[[], int] | None = None) -> None:
        self._database = database
        self._run = run
        self._clock_us = clock_us
        self._sql = _Statements(database.dialect.name)

    def grant(self, requests: Sequence[LeaseRequest]) -> list[LeaseGrant]:
        """Grant, renew or shrink leases in one transaction; raises `SQLAlchemyError` having changed nothing.

        Requests must be sorted by key, so that gateways cannot deadlock.
        """
        with self._database.begin() as connection:
            return [self._grant(connection, request) for request in requests]

    def sweep(self) -> None:
        """Delete leases that have expired long ago."""
        with self._database.begin() as connection:
            old_us = self._now_us(connection) - LEASE_US
            connection.execute(delete(budget_leases).where(budget_leases.c.until_us < old_us))

    def release(self, runs: Sequence[str]) -> None:
        """Delete the leases of dead gateways whose journals are folded."""
        with self._database.begin() as connection:
            connection.execute(delete(budget_leases).where(budget_leases.c.gateway.in_(runs)))

    def wanted(self) -> set[BudgetKey]:
        """Return the budgets of which another gateway lately wanted more than was left unleased."""
        periods = budget_periods.c
        with self._database.connect() as connection:
            since_us = self._now_us(connection) - _WANTED_US
            rows = connection.execute(select(*(periods[name] for name in _KEY)).where(periods.wanted_us > since_us))
            return {BudgetKey(account, Period(period), first) for account, period, first in rows}

    def spent(self, key: BudgetKey) -> int:
        """Return the spent amount of a budget in the ledger, in nano-USD."""
        with self._database.connect() as connection:
            return self._spent(connection, key)

    def _grant(self, connection: Connection, request: LeaseRequest) -> LeaseGrant:
        """Grant one request; its floor is always granted, because running requests will spend it."""
        sql, key = self._sql, dict(zip(_KEY, _values(request.key), strict=True))
        connection.execute(sql.lock, key | {"wanted_us": 0})
        now = self._now_us(connection)
        spent = self._spent(connection, request.key)
        elsewhere = int(connection.execute(sql.held_elsewhere, _bound(key, run=self._run, now=now)).scalar_one())
        ceiling, needed = request.limit - spent - elsewhere, request.floor + request.wanted
        if needed > ceiling and elsewhere:
            connection.execute(sql.want, _bound(key, now=now))
        spare = max(0, ceiling - needed) // _ADVANCE_DIVISOR if request.wanted else 0
        held = max(request.floor, min(needed + spare, ceiling))
        connection.execute(sql.hold, key | {"gateway": self._run, "nano_usd": held, "until_us": now + LEASE_US})
        return LeaseGrant(held, spent)

    def _spent(self, connection: Connection, key: BudgetKey) -> int:
        last = last_day(key.period, key.first_day)
        days = {"of": key.account, "first": key.first_day, "last": _NO_LAST_DAY if last is None else last}
        return int(connection.execute(self._sql.spent, days).scalar_one())

    def _now_us(self, connection: Connection) -> int:
        """Return the time of the database, which all gateways share."""
        if self._clock_us is not None:
            return self._clock_us()
        if connection.dialect.name == "sqlite":
            return now_us()
        return int(connection.execute(_CLOCK).scalar_one())


class _Statements:
    """The SQL statements of a grant, built once: building one takes longer than executing it."""

    def __init__(self, dialect: str) -> None:
        lease, row = budget_leases.c, spending.c
        # A write, not a SELECT: SQLite begins its write transaction with it, PostgreSQL locks the row, new or not.
        self.lock = upsert(dialect, budget_periods, keep=["wanted_us"])
        self.want = update(budget_periods).where(*_is(budget_periods)).values(wanted_us=bindparam("now"))
        self.held_elsewhere = select(func.coalesce(func.sum(lease.nano_usd), 0)).where(
            *_is(budget_leases), lease.gateway != bindparam("run"), lease.until_us > bindparam("now")
        )
        self.hold = upsert(dialect, budget_leases, replace=["nano_usd", "until_us"])
        self.spent = select(func.coalesce(func.sum(row.nano_usd), 0)).where(
            row.account == bindparam("of"), row.day >= bindparam("first"), row.day <= bindparam("last")
        )


def _values(key: BudgetKey) -> tuple[str, str, int]:
    return key.account, key.period.value, key.first_day


def _is(table: Table) -> tuple[ColumnElement[bool], ...]:
    return tuple(table.c[name] == bindparam(f"the_{name}") for name in _KEY)


def _bound(key: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {f"the_{name}": value for name, value in key.items()} | more
