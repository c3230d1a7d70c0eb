"""Retention: rows of the ledger that are old enough are deleted once their hours are summed up, so no sum changes.

What is left of them is usage by the hour, and what each run of an engine was booked with. A row that comes later into
an hour without rows is counted from the ledger, and added to the hour at the next time.
"""

from collections.abc import Callable

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from gateway.costs import queries
from gateway.costs.amounts import HOUR_US
from gateway.costs.sums import merged
from gateway.costs.tables import usage_hours, usage_summed
from gateway.costs.usage import UsageSummary
from gateway.ledger import usage_ledger

_HOURS_AT_ONCE = 24


class Retention:
    """Deletes rows of one database; methods block. `kept` is told which rows go before they do."""

    def __init__(self, database: Engine, summary: UsageSummary, kept: Callable[[Connection, int], None]) -> None:
        self._database = database
        self._summary = summary
        self._kept = kept

    def prune(self, before_us: int) -> int:
        """Delete the rows of all whole hours before a moment that are summed up; returns how many those were."""
        end = min(before_us // HOUR_US, self._summary.close_hours())
        deleted = 0
        while (step := self._step(end)) is not None:
            deleted += step
        return deleted

    def _step(self, end: int) -> int | None:
        """Delete a day's rows, so that nobody waits for long; None when there is nothing more to delete."""
        with self._database.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            end = min(end, self._summary.checked(connection))
            kept_from = connection.execute(select(usage_summed.c.kept_from_hour)).scalar_one()
            oldest = connection.execute(select(func.min(usage_ledger.c.opened_us))).scalar()
            if oldest is None or oldest >= max(end, kept_from) * HOUR_US:
                return None
            self._add_late(connection, kept_from)
            until = max(kept_from, min(end, max(kept_from, oldest // HOUR_US) + _HOURS_AT_ONCE))
            self._kept(connection, until * HOUR_US)
            gone = connection.execute(delete(usage_ledger).where(usage_ledger.c.opened_us < until * HOUR_US)).rowcount
            self._forget_counts(connection, kept_from, until)
            return gone

    @staticmethod
    def _add_late(connection: Connection, kept_from: int) -> None:
        late = queries.ledger_sums(connection, (0, kept_from * HOUR_US), HOUR_US)
        for hour in sorted({one.period for one in late}):
            known = queries.hour_sums(connection, (hour, hour + 1), HOUR_US)
            connection.execute(delete(usage_hours).where(usage_hours.c.hour == hour))
            here = merged([*known, *(one for one in late if one.period == hour)])
            connection.execute(insert(usage_hours), queries.rows_of(here))

    @staticmethod
    def _forget_counts(connection: Connection, begin: int, end: int) -> None:
        hours, summed = usage_hours.c, usage_summed.c
        sums = select(func.coalesce(func.sum(hours.requests), 0), func.coalesce(func.sum(hours.unsettled), 0))
        requests, unsettled = connection.execute(sums.where(hours.hour >= begin, hours.hour < end)).one()
        values = {"requests": summed.requests - int(requests), "unsettled": summed.unsettled - int(unsettled)}
        connection.execute(update(usage_summed).values(kept_from_hour=end, **values))
