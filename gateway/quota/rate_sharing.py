"""Sharing: gateways on one database tell each other once a second what they let through and what they run.

Each gives at most its part of a limit at once, and pays for what the others let through as soon as it hears of it. So
together they let through what one alone would, plus at most what the limit allows in a beat for each further gateway.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    func,
    select,
    text,
)

from gateway.auth import Limits
from gateway.database import upsert
from gateway.quota.rate_limits import AccountMeter, RateLimiter
from gateway.threads import CRITICAL

_ALIVE_US = 5 * 10**6
_KEPT_US = 600 * 10**6
_LATE_US = 2 * 10**6
_MOST = 2**63 - 1
"""The largest number of the table: one absurd request keeps no other account from being told of."""
_SELF = ""
"""The account under which a gateway says that it is there."""

limit_use = Table(
    "limit_use",
    MetaData(),
    Column("gateway", String(32), primary_key=True),
    Column("account", String(80), primary_key=True),
    Column("seen_us", BigInteger, nullable=False),
    Column("running", Integer, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("rpm", BigInteger),
    Column("tpm", BigInteger),
)
_SAID = ("seen_us", "running", "requests", "tokens", "rpm", "tpm")
_NOTHING = {"account": _SELF, "running": 0, "requests": 0, "tokens": 0, "rpm": None, "tpm": None}


class LimitSharing:
    """The exchange of one gateway (`run` names it) with all others."""

    def __init__(self, database: Engine, run: str, limiter: RateLimiter) -> None:
        self._database = database
        self._run = run
        self._limiter = limiter
        self._heard: dict[tuple[str, str], tuple[int, int]] = {}
        self._heard_us = 0
        self._running: dict[tuple[str, str], tuple[int, int]] = {}
        self._busy: set[str] = set()

    async def exchange(self) -> None:
        """Tell and hear; raises `SQLAlchemyError` when the database is away, and then tells it the next time."""
        limiter = self._limiter
        told, limiter.used = limiter.used, set()
        rows = [self._row(account, limiter.meters[account]) for account in told]
        try:
            now_us, limiter.gateways, heard = await CRITICAL.run(self._visit, rows)
        except BaseException:
            limiter.used |= told
            raise
        self._hear(heard, now_us)
        self._count_running(now_us)
        # What runs here is told again and again: others believe it for a few beats only, in case this gateway dies.
        limiter.used |= {account for account in told if limiter.meters[account].running}

    def leave(self) -> None:
        """Tell the others that this gateway is gone."""
        with self._database.begin() as connection:
            connection.execute(delete(limit_use).where(limit_use.c.gateway == self._run))

    @staticmethod
    def _row(account: str, meter: AccountMeter) -> dict[str, Any]:
        return {
            "account": account,
            "running": meter.running,
            "requests": meter.requests_let,
            "tokens": min(meter.tokens_let, _MOST),
            "rpm": meter.limits.rpm,
            "tpm": meter.limits.tpm,
        }

    def _visit(self, rows: Sequence[dict[str, Any]]) -> tuple[int, int, Sequence[Any]]:
        with self._database.begin() as connection:
            now = int(connection.execute(text("SELECT extract(epoch FROM clock_timestamp()) * 1000000")).scalar_one())
            told = [row | {"gateway": self._run, "seen_us": now} for row in (_NOTHING, *rows)]
            connection.execute(upsert(connection.dialect.name, limit_use, replace=_SAID), told)
            return now, self._alive(connection, now), self._others(connection, now)

    @staticmethod
    def _alive(connection: Connection, now: int) -> int:
        use = limit_use.c
        gone = select(use.gateway).where(use.account == _SELF, use.seen_us < now - _KEPT_US)
        connection.execute(delete(limit_use).where(use.gateway.in_(gone)))
        alive = select(func.count()).where(use.account == _SELF, use.seen_us > now - _ALIVE_US)
        return int(connection.execute(alive).scalar_one())

    def _others(self, connection: Connection, now: int) -> Sequence[Any]:
        """What changed since the last visit, and a little before, for what was committed late; at first everything."""
        use = limit_use.c
        query = select(limit_use).where(use.gateway != self._run, use.account != _SELF)
        if self._heard_us:
            query = query.where(use.seen_us > self._heard_us - _LATE_US)
        return connection.execute(query).all()

    def _hear(self, rows: Sequence[Any], now_us: int) -> None:
        """Take what others let through since they last said; what they did before this gateway came is past."""
        for row in rows:
            before = self._heard.get((row.gateway, row.account))
            if before is None:
                before = (0, 0) if self._heard_us else (row.requests, row.tokens)
            if (row.requests, row.tokens) != before:
                limits = Limits(rpm=row.rpm, tpm=row.tpm)
                self._limiter.hear(row.account, limits, row.requests - before[0], row.tokens - before[1])
            self._heard[row.gateway, row.account] = (row.requests, row.tokens)
            self._running[row.gateway, row.account] = (row.running, row.seen_us)
        self._heard_us = now_us

    def _count_running(self, now_us: int) -> None:
        """Set what runs elsewhere, as far as a living gateway said so lately."""
        elsewhere: Counter[str] = Counter()
        for (gateway, account), (running, seen_us) in list(self._running.items()):
            if running and seen_us > now_us - _ALIVE_US:
                elsewhere[account] += running
            else:
                del self._running[gateway, account]
        for account in self._busy - elsewhere.keys():
            self._limiter.meter(account).running_elsewhere = 0
        for account, running in elsewhere.items():
            self._limiter.meter(account).running_elsewhere = running
        self._busy = set(elsewhere)
