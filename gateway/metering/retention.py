"""Forgetting a tenant: its name and the ids of its keys in old usage become pseudonyms that lead nowhere; sums stay.

There is nothing else to delete: prompts and answers are never stored.

Retention: rows of the ledger that are old enough are deleted once their hours are summed up, so no sum changes.

What is left of them is usage by the hour, and what each run of an engine was booked with. A row that comes later into
an hour without rows is counted from the ledger, and added to the hour at the next time.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from adapters.audit import write_entry
from gateway.clock import HOUR_US
from gateway.errors import InvalidRequestError
from gateway.metering import OWN_KEY, SHADOW_KEY, usage_ledger, usage_queries
from gateway.metering.tables import usage_hours, usage_summed
from gateway.metering.usage_queries import merged
from gateway.metering.usage_summary import UsageSummary


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """What a tenant is called from now on, and how much of its usage was renamed; requests that run keep its name."""

    pseudonym: str
    rows: int
    keys: int


class TenantErasure:
    """Renames usage in one database; methods block. `flush` first brings there what is under way."""

    def __init__(self, database: Engine, flush: Callable[[], object]) -> None:
        self._database = database
        self._flush = flush

    def forget(self, tenant: str, *, actor: str) -> ErasureResult:
        """Rename a tenant's usage; raises `InvalidRequestError` when there is none.

        The audit log gets the pseudonym, not the name: else it would tell what was to be forgotten.
        """
        if tenant in (OWN_KEY, SHADOW_KEY):
            raise InvalidRequestError(f"'{tenant}' is the gateway itself and cannot be forgotten.", param="tenant")
        self._flush()
        with self._database.begin() as connection:
            keys = self._keys(connection, tenant)
            if not keys:
                raise InvalidRequestError(
                    f"There is no usage of a tenant '{tenant}'; look at its name.", param="tenant"
                )
            pseudonym = f"forgotten-{secrets.token_hex(8)}"
            rows = sum(self._rename(connection, tenant, key, pseudonym) for key in keys)
            evidence = {"rows": rows, "keys": len(keys)}
            write_entry(connection, actor=actor, action="forget", subject=pseudonym, document=evidence)
        return ErasureResult(pseudonym, rows, len(keys))

    @staticmethod
    def _keys(connection: Connection, tenant: str) -> list[str]:
        found: set[str] = set()
        for table in (usage_ledger, usage_hours):
            query = select(table.c.key_id).where(table.c.tenant == tenant).distinct()
            found.update(connection.execute(query).scalars())
        return sorted(found)

    @staticmethod
    def _rename(connection: Connection, tenant: str, key: str, pseudonym: str) -> int:
        names = {"tenant": pseudonym, "key_id": f"forgotten-{secrets.token_hex(8)}"}
        row, hour = usage_ledger.c, usage_hours.c
        ended = (row.tenant == tenant, row.key_id == key, row.state != "open")
        renamed = connection.execute(update(usage_ledger).where(*ended).values(names | {"client_request_id": None}))
        connection.execute(update(usage_hours).where(hour.tenant == tenant, hour.key_id == key).values(names))
        return renamed.rowcount


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
        late = usage_queries.ledger_sums(connection, (0, kept_from * HOUR_US), HOUR_US)
        for hour in sorted({one.period for one in late}):
            known = usage_queries.hour_sums(connection, (hour, hour + 1), HOUR_US)
            connection.execute(delete(usage_hours).where(usage_hours.c.hour == hour))
            here = merged([*known, *(one for one in late if one.period == hour)])
            connection.execute(insert(usage_hours), usage_queries.rows_of(here))

    @staticmethod
    def _forget_counts(connection: Connection, begin: int, end: int) -> None:
        hours, summed = usage_hours.c, usage_summed.c
        sums = select(func.coalesce(func.sum(hours.requests), 0), func.coalesce(func.sum(hours.unsettled), 0))
        requests, unsettled = connection.execute(sums.where(hours.hour >= begin, hours.hour < end)).one()
        values = {"requests": summed.requests - int(requests), "unsettled": summed.unsettled - int(unsettled)}
        connection.execute(update(usage_summed).values(kept_from_hour=end, **values))
