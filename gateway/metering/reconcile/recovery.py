"""Recovery of interrupted rows: read their token counts from an engine that outlived the gateway.

A managed engine stops with its gateway; an attached one keeps the counts. Interrupted rows get the engine's token
counts and stay interrupted. Their keys and tenants are charged at the current price.
"""

import logging
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, select, update
from sqlalchemy import Engine as Database

from gateway.auth.tables import keys
from gateway.clock import HOUR_US, now_us
from gateway.core import Usage, UsageSource
from gateway.costs.request_price import RequestPrices
from gateway.engines.client import EngineUsage
from gateway.engines.engine import Engine
from gateway.engines.pool import EnginePool
from gateway.errors import GatewayError
from gateway.metering.fold import RequestCost, SpendingWriter
from gateway.metering.tables import usage_ledger
from gateway.metering.usage_summary import reopen_hour
from gateway.threads import REPORTS

log = logging.getLogger(__name__)
_MOST_ROWS = 500
_LONGEST_US = HOUR_US
_Query = tuple[str, str]
"""Request id, run of the engine."""


class Recovery:
    """Queries the engines for the usage of this gateway's interrupted rows, and charges it."""

    def __init__(self, database: Database, pool: EnginePool, gateway: str, prices: RequestPrices) -> None:
        self._database = database
        self._prices = prices
        self._spending = SpendingWriter(database.dialect.name)
        self._pool = pool
        self._gateway = gateway
        self._queried: set[_Query] = set()
        self._unknown: set[_Query] = set()
        """Queried once, without usage."""

    async def run(self) -> None:
        """Query the engines for at most `_MOST_ROWS` interrupted rows, and charge the rows with exact usage.

        Raises the first error of a row after all rows were tried.
        """
        rows = await REPORTS.run(self._interrupted_rows)
        waiting = {row.request_id for row in rows}
        self._queried = {query for query in self._queried if query[0] in waiting}
        self._unknown = {query for query in self._unknown if query[0] in waiting}
        failures: list[Exception] = []
        for row in rows:
            for engine in self._pool.ready:
                query = (row.request_id, engine.run or "")
                if engine.run and row.engine_run in (None, engine.run) and query not in self._queried:
                    try:
                        if await self._query(row, engine):
                            self._queried.add(query)
                    except Exception as error:  # queried again the next time; the other rows continue
                        failures.append(error)
        for failure in failures:
            raise failure
        if self._prices.price.nano_usd is not None:
            await REPORTS.run(self._charge)

    def _interrupted_rows(self) -> list[Row[Any]]:
        row = usage_ledger.c
        query = select(row.request_id, row.attempt, row.engine_run, row.opened_us).where(
            self._is_interrupted(), row.evidence != UsageSource.EXACT, row.opened_us > now_us() - _LONGEST_US
        )
        with self._database.connect() as connection:
            return list(connection.execute(query.order_by(row.opened_us.desc()).limit(_MOST_ROWS)))

    def _is_interrupted(self) -> ColumnElement[bool]:
        row = usage_ledger.c
        return and_(row.state == "interrupted", row.gateway == self._gateway)

    async def _query(self, row: Row[Any], engine: Engine) -> bool:
        """Query an engine for a row's usage and store it; returns False when the query is to be repeated.

        A stalled engine may read this query before the request itself, so "no usage" counts only the second time.
        """
        try:
            usage = await engine.client.worked_on(row.request_id)
        except GatewayError:
            return False
        query = (row.request_id, engine.run or "")
        if usage is not None and not usage.usage.prompt_tokens and query not in self._unknown:
            self._unknown.add(query)
            return False
        if usage is not None and (usage.usage.prompt_tokens or row.engine_run):
            await REPORTS.run(self._write_usage, row, engine, usage)
        return True

    def _write_usage(self, row: Row[Any], engine: Engine, found: EngineUsage) -> None:
        column, usage = usage_ledger.c, found.usage
        values = {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "evidence": UsageSource.EXACT.value,
            "engine": engine.name,
            "engine_run": engine.run,
            "choices": found.choices,
        }
        this = (column.request_id == row.request_id, column.attempt == row.attempt, column.state == "interrupted")
        with self._database.begin() as connection:
            reopen_hour(connection, row.opened_us)
            connection.execute(update(usage_ledger).where(*this).values(values))

    def _charge(self) -> None:
        """Charge the rows whose usage is exact and that have no cost yet; only stored keys have budgets."""
        row, price = usage_ledger.c, self._prices.price
        unpaid = select(usage_ledger).where(
            self._is_interrupted(),
            row.evidence == UsageSource.EXACT,
            row.cost_nano_usd.is_(None),
            row.key_id.in_(select(keys.c.id)),
        )
        with self._database.begin() as connection:
            for found in connection.execute(unpaid.limit(_MOST_ROWS)).all():
                usage = Usage(found.prompt_tokens or 0, found.completion_tokens or 0, found.cached_tokens or 0)
                cost = price.cost_nano_usd(usage) or 0
                this = (
                    row.request_id == found.request_id,
                    row.attempt == found.attempt,
                    row.cost_nano_usd.is_(None),
                )
                priced = {"cost_nano_usd": cost, "price_version": price.version}
                if connection.execute(update(usage_ledger).where(*this).values(priced)).rowcount:
                    self._spending.add(connection, [RequestCost(found.opened_us, found.key_id, found.tenant, cost)])
