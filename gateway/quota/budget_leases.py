"""Leases of budget money: each gateway holds part of every budget that it uses, granted by the database.

Spent is what the ledger booked. A lease lapses when its gateway dies or does not renew it. Every change of a lease
locks its budget first, so that spent and leased money together never exceed the budget. Periods begin and renew at
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


def first_day(period: Period, day: int) -> int:
    """The first day of the period that a day (counted since the epoch) lies in; 0 for the one that never ends."""
    match period:
        case Period.DAY:
            return day
        case Period.MONTH:
            return day_number(date_of(day).replace(day=1))
        case Period.TOTAL:
            return 0


def renews_at(period: Period, first: int) -> datetime | None:
    """When the period that began on day `first` is over; None for the one that never is."""
    match period:
        case Period.DAY:
            after = date_of(first) + timedelta(days=1)
        case Period.MONTH:
            after = (date_of(first) + timedelta(days=31)).replace(day=1)
        case Period.TOTAL:
            return None
    return datetime(after.year, after.month, after.day, tzinfo=UTC)


def last_day(period: Period, first: int) -> int | None:
    """The last day of the period that began on day `first`; None for the one without."""
    after = renews_at(period, first)
    return None if after is None else day_number(after.date()) - 1


@dataclass(frozen=True, slots=True, order=True)
class BudgetKey:
    """Which budget: whose, per what, and the day since the epoch on which its period began."""

    account: str
    period: Period
    first_day: int


@dataclass(slots=True)
class BudgetLease:
    """All amounts are nano-USD. The money held is either free, reserved by requests that run, or spent by requests
    whose rows may not be in the database yet.
    """

    key: BudgetKey
    limit: int
    held: int = 0
    reserved: int = 0
    spent_here: int = 0
    until_s: float = 0.0
    """Until when the money is ours, on the clock of `Budgets`."""
    is_frozen: bool = False
    """Nothing is reserved while the database may take money back."""
    used_s: float = 0.0
    spent: int = 0
    """What the database said was spent, then."""
    refused_s: float = -1e9
    """When the database last had not enough."""

    def has(self, nano_usd: int, now_s: float) -> bool:
        """Whether so much can be reserved now."""
        return self.held - self.reserved - self.spent_here >= nano_usd and now_s < self.until_s and not self.is_frozen

    @property
    def left(self) -> int:
        """What would be left if all that runs cost nothing, as far as this gateway knows."""
        return max(0, self.limit - self.spent - self.spent_here)

    @property
    def use(self) -> float:
        """The part of it that is spent, as far as this gateway knows."""
        return 1.0 if not self.limit else (self.spent + self.spent_here) / self.limit

    def name(self) -> str:
        """The budget in words, with the moment in which it renews."""
        whose = "this key" if self.key.account.startswith("key:") else "this key's tenant"
        renewed = renews_at(self.key.period, self.key.first_day)
        when = "does not renew" if renewed is None else f"renews at {renewed.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        per = "in all" if self.key.period is Period.TOTAL else f"per {self.key.period}"
        return f"the budget of {whose} ({usd_text(self.limit)} {per}; it {when})"


LEASE_US = 90 * 10**6
"""Longer than a database may be away without a request being refused."""
_WANTED_US = 3 * 10**6
_SPARE = 4
"""Who needs money gets this part of what is left beyond that."""
_FOR_EVER = 1 << 30
_CLOCK = text("SELECT extract(epoch FROM clock_timestamp()) * 1000000")
metadata = MetaData()
_KEY = ("account", "period", "first_day")

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
    """The new amount of a lease, and the total that the ledger booked on its budget, in nano-USD."""

    nano_usd: int
    spent: int


class BudgetLeaseStore:
    """The leases of one gateway (`run` names it) in one database; methods block."""

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
            return [self._serve(connection, request) for request in requests]

    def sweep(self) -> None:
        """Remove leases that ended long ago."""
        with self._database.begin() as connection:
            old_us = self._now_us(connection) - LEASE_US
            connection.execute(delete(budget_leases).where(budget_leases.c.until_us < old_us))

    def release(self, runs: Sequence[str]) -> None:
        """Delete the leases of dead gateways whose journals are folded."""
        with self._database.begin() as connection:
            connection.execute(delete(budget_leases).where(budget_leases.c.gateway.in_(runs)))

    def wanted(self) -> set[BudgetKey]:
        """Return the budgets that lately had no money left because other gateways have leased it."""
        periods = budget_periods.c
        with self._database.connect() as connection:
            since_us = self._now_us(connection) - _WANTED_US
            rows = connection.execute(select(*(periods[name] for name in _KEY)).where(periods.wanted_us > since_us))
            return {BudgetKey(account, Period(period), first) for account, period, first in rows}

    def spent(self, key: BudgetKey) -> int:
        """Return what the ledger booked on an account within a period, in nano-USD."""
        with self._database.connect() as connection:
            return self._spent(connection, key)

    def _serve(self, connection: Connection, request: LeaseRequest) -> LeaseGrant:
        """Grant one request; the floor is always granted, as running requests will spend it."""
        sql, key = self._sql, dict(zip(_KEY, _values(request.key), strict=True))
        connection.execute(sql.lock, key | {"wanted_us": 0})
        now = self._now_us(connection)
        spent = self._spent(connection, request.key)
        elsewhere = int(connection.execute(sql.held_elsewhere, _bound(key, run=self._run, now=now)).scalar_one())
        ceiling, needed = request.limit - spent - elsewhere, request.floor + request.wanted
        if needed > ceiling and elsewhere:
            connection.execute(sql.want, _bound(key, now=now))
        spare = max(0, ceiling - needed) // _SPARE if request.wanted else 0
        held = max(request.floor, min(needed + spare, ceiling))
        connection.execute(sql.hold, key | {"gateway": self._run, "nano_usd": held, "until_us": now + LEASE_US})
        return LeaseGrant(held, spent)

    def _spent(self, connection: Connection, key: BudgetKey) -> int:
        last = last_day(key.period, key.first_day)
        days = {"of": key.account, "first": key.first_day, "last": _FOR_EVER if last is None else last}
        return int(connection.execute(self._sql.spent, days).scalar_one())

    def _now_us(self, connection: Connection) -> int:
        """By the clock of the database, which all its gateways share."""
        if self._clock_us is not None:
            return self._clock_us()
        if connection.dialect.name == "sqlite":
            return now_us()
        return int(connection.execute(_CLOCK).scalar_one())


class _Statements:
    """The statements of an exchange, made once: making one takes longer than running it."""

    def __init__(self, dialect: str) -> None:
        lease, row = budget_leases.c, spending.c
        # Written rather than selected: SQLite begins its transaction with it, PostgreSQL locks the row, new or old.
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
