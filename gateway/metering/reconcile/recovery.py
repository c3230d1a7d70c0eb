"""Rows of a killed gateway whose engine lives on: it still knows what their requests took.

A managed engine ends with its gateway; an attached one remembers. Rows that were interrupted get the engine's numbers,
and stay interrupted: nobody was answered, as far as anybody knows. Their keys and tenants pay what it took, at the
price in force when that was found.
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
from gateway.metering import usage_ledger
from gateway.metering.fold import Booking, Cost
from gateway.metering.usage_summary import reopen
from gateway.threads import REPORTS

log = logging.getLogger(__name__)
_MOST = 500
_LONGEST_US = HOUR_US


class Recovery:
    """Asks the engines until they know for each interrupted row of one gateway, and has it paid."""

    def __init__(self, database: Database, pool: EnginePool, gateway: str, prices: RequestPrices) -> None:
        self._database = database
        self._prices = prices
        self._booking = Booking(database.dialect.name)
        self._pool = pool
        self._gateway = gateway
        self._asked: set[tuple[str, str]] = set()
        self._unknown: set[tuple[str, str]] = set()
        """Asked once, and the engine knew nothing."""

    async def run(self) -> None:
        """Ask for what is there now; at most so many rows at a time."""
        rows = await REPORTS.run(self._rows)
        waiting = {row.request_id for row in rows}
        self._asked = {asked for asked in self._asked if asked[0] in waiting}
        self._unknown = {asked for asked in self._unknown if asked[0] in waiting}
        failures: list[Exception] = []
        for row in rows:
            for engine in self._pool.ready:
                asked = (row.request_id, engine.run or "")
                if engine.run and row.engine_run in (None, engine.run) and asked not in self._asked:
                    try:
                        if await self._ask(row, engine):
                            self._asked.add(asked)
                    except Exception as error:  # asked again the next time; the other rows get their turn
                        failures.append(error)
        for failure in failures:
            raise failure
        if self._prices.price.nano_usd is not None:
            await REPORTS.run(self._charge)

    def _rows(self) -> list[Row[Any]]:
        row = usage_ledger.c
        query = select(row.request_id, row.attempt, row.engine_run, row.opened_us).where(
            self._is_interrupted(), row.evidence != UsageSource.EXACT, row.opened_us > now_us() - _LONGEST_US
        )
        with self._database.connect() as connection:
            return list(connection.execute(query.order_by(row.opened_us.desc()).limit(_MOST)))

    def _is_interrupted(self) -> ColumnElement[bool]:
        row = usage_ledger.c
        return and_(row.state == "interrupted", row.gateway == self._gateway)

    async def _ask(self, row: Row[Any], engine: Engine) -> bool:
        """Whether the engine has said what it knows; while it still works on the request, it does not. One that stood
        still may read our question before the request itself, so that it knows nothing counts the second time.
        """
        try:
            worked = await engine.client.worked_on(row.request_id)
        except GatewayError:
            return False
        asked = (row.request_id, engine.run or "")
        if worked is not None and not worked.usage.prompt_tokens and asked not in self._unknown:
            self._unknown.add(asked)
            return False
        if worked is not None and (worked.usage.prompt_tokens or row.engine_run):
            await REPORTS.run(self._keep, row, engine, worked)
        return True

    def _keep(self, row: Row[Any], engine: Engine, worked: EngineUsage) -> None:
        known, usage = usage_ledger.c, worked.usage
        values = {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "evidence": UsageSource.EXACT.value,
            "engine": engine.name,
            "engine_run": engine.run,
            "choices": worked.choices,
        }
        this = (known.request_id == row.request_id, known.attempt == row.attempt, known.state == "interrupted")
        with self._database.begin() as connection:
            reopen(connection, row.opened_us)
            connection.execute(update(usage_ledger).where(*this).values(values))

    def _charge(self) -> None:
        """Have what is known exactly, and has no price yet, paid by the key and the tenant; others have no budgets."""
        row, price = usage_ledger.c, self._prices.price
        unpaid = select(usage_ledger).where(
            self._is_interrupted(),
            row.evidence == UsageSource.EXACT,
            row.cost_nano_usd.is_(None),
            row.key_id.in_(select(keys.c.id)),
        )
        with self._database.begin() as connection:
            for one in connection.execute(unpaid.limit(_MOST)).all():
                usage = Usage(one.prompt_tokens or 0, one.completion_tokens or 0, one.cached_tokens or 0)
                cost = price.cost_nano_usd(usage) or 0
                this = (row.request_id == one.request_id, row.attempt == one.attempt, row.cost_nano_usd.is_(None))
                priced = {"cost_nano_usd": cost, "price_version": price.version}
                if connection.execute(update(usage_ledger).where(*this).values(priced)).rowcount:
                    self._booking.add(connection, [Cost(one.opened_us, one.key_id, one.tenant, cost)])
