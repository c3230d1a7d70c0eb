"""Shared rate limits: gateways on one database exchange their admitted and running requests once a second.

Each gateway admits at most its share of a limit at once, and takes the requests of the others from its own buckets when
it reads them. Together they admit what a single gateway would, plus at most one second's limit for each further one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
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
    select,
    text,
)

from gateway.auth import Limits
from gateway.database import upsert
from gateway.quota.rate_limits import AccountMeter, RateLimiter
from gateway.threads import CRITICAL

_ALIVE_US = 5 * 10**6
"""A gateway counts as running for this long after its last exchange."""
_KEPT_US = 600 * 10**6
_LATE_COMMIT_US = 2 * 10**6
"""Rows this much older than the last exchange are read again, because they may have been committed late."""
_MAX_BIGINT = 2**63 - 1
_HEARTBEAT = ""
"""The account of a gateway's heartbeat row."""

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
_VALUES = ("seen_us", "running", "requests", "tokens", "rpm", "tpm")
_HEARTBEAT_ROW = {"account": _HEARTBEAT, "running": 0, "requests": 0, "tokens": 0, "rpm": None, "tpm": None}


class LimitSharing:
    """Exchanges the use of accounts between this gateway (run id `run`) and all others on the database."""

    def __init__(self, database: Engine, run: str, limiter: RateLimiter) -> None:
        self._database = database
        self._run = run
        self._limiter = limiter
        self._counted: dict[tuple[str, str], tuple[int, int]] = {}
        """Requests and tokens already counted, by gateway and account; forgotten when a gateway has left or died."""
        self._read_us = 0
        self._running: dict[tuple[str, str], tuple[int, int]] = {}
        """Running requests and when they were reported, by gateway and account."""
        self._running_elsewhere: set[str] = set()

    async def exchange(self) -> None:
        """Publish this gateway's use and read that of the others; a periodic task.

        Raises `SQLAlchemyError` when the database is unavailable; the use is then published the next time.
        """
        limiter = self._limiter
        published, limiter.changed = limiter.changed, set()
        rows = [self._row(account, limiter.meters[account]) for account in published]
        try:
            now_us, seen, others = await CRITICAL.run(self._write_and_read, rows)
        except BaseException:
            limiter.changed |= published
            raise
        limiter.gateways = sum(seen_us > now_us - _ALIVE_US for seen_us in seen.values())
        self._counted = {key: counted for key, counted in self._counted.items() if key[0] in seen}
        self._count(others, now_us)
        self._count_running(now_us)
        # Running requests are published each time: their rows expire soon, in case this gateway dies.
        limiter.changed |= {account for account in published if limiter.meters[account].running}

    def leave(self) -> None:
        """Delete this gateway's rows when it stops."""
        with self._database.begin() as connection:
            connection.execute(delete(limit_use).where(limit_use.c.gateway == self._run))

    @staticmethod
    def _row(account: str, meter: AccountMeter) -> dict[str, Any]:
        return {
            "account": account,
            "running": meter.running,
            "requests": meter.admitted_requests,
            "tokens": min(meter.admitted_tokens, _MAX_BIGINT),  # an overflow would fail the rows of all accounts
            "rpm": meter.limits.rpm,
            "tpm": meter.limits.tpm,
        }

    def _write_and_read(self, rows: Sequence[dict[str, Any]]) -> tuple[int, Mapping[str, int], Sequence[Any]]:
        with self._database.begin() as connection:
            now = int(connection.execute(text("SELECT extract(epoch FROM clock_timestamp()) * 1000000")).scalar_one())
            values = [row | {"gateway": self._run, "seen_us": now} for row in (_HEARTBEAT_ROW, *rows)]
            connection.execute(upsert(connection.dialect.name, limit_use, replace=_VALUES), values)
            return now, self._read_heartbeats(connection, now), self._read_others(connection)

    @staticmethod
    def _read_heartbeats(connection: Connection, now: int) -> Mapping[str, int]:
        """Return when each gateway was last seen, and delete the rows of those that died long ago."""
        use = limit_use.c
        dead = select(use.gateway).where(use.account == _HEARTBEAT, use.seen_us < now - _KEPT_US)
        connection.execute(delete(limit_use).where(use.gateway.in_(dead)))
        heartbeats = select(use.gateway, use.seen_us).where(use.account == _HEARTBEAT)
        return {gateway: int(seen_us) for gateway, seen_us in connection.execute(heartbeats)}

    def _read_others(self, connection: Connection) -> Sequence[Any]:
        """Read the rows of other gateways that changed since the last exchange; at the first one, all."""
        use = limit_use.c
        query = select(limit_use).where(use.gateway != self._run, use.account != _HEARTBEAT)
        if self._read_us:
            query = query.where(use.seen_us > self._read_us - _LATE_COMMIT_US)
        return connection.execute(query).all()

    def _count(self, rows: Sequence[Any], now_us: int) -> None:
        """Count what other gateways have admitted since the last exchange, not what preceded this gateway's start."""
        for row in rows:
            before = self._counted.get((row.gateway, row.account))
            if before is None:
                before = (0, 0) if self._read_us else (row.requests, row.tokens)
            if (row.requests, row.tokens) != before:
                limits = Limits(rpm=row.rpm, tpm=row.tpm)
                requests, tokens = row.requests - before[0], row.tokens - before[1]
                if before == (0, 0):  # new, or forgotten because it hung for long: then all it ever admitted
                    requests, tokens = min(requests, row.rpm or 0), min(tokens, row.tpm or 0)
                self._limiter.add_remote_use(row.account, limits, requests, tokens)
            self._counted[row.gateway, row.account] = (row.requests, row.tokens)
            self._running[row.gateway, row.account] = (row.running, row.seen_us)
        self._read_us = now_us

    def _count_running(self, now_us: int) -> None:
        """Sum the running requests that other gateways have reported within `_ALIVE_US`."""
        elsewhere: Counter[str] = Counter()
        for (gateway, account), (running, seen_us) in list(self._running.items()):
            if running and seen_us > now_us - _ALIVE_US:
                elsewhere[account] += running
            else:
                del self._running[gateway, account]
        for account in self._running_elsewhere - elsewhere.keys():
            self._limiter.meter(account).running_elsewhere = 0
        for account, running in elsewhere.items():
            self._limiter.meter(account).running_elsewhere = running
        self._running_elsewhere = set(elsewhere)
