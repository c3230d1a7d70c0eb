"""Retention and erasure: old ledger rows are deleted, a tenant's name is replaced, and no sum changes.

Rows are pruned once their hours are summed; usage by the hour remains, and the tokens booked for each run of an
engine. A row that arrives later in a pruned hour is counted from the ledger, and added to the hour by the next pruning.
Erasure replaces a tenant's name and key ids by random pseudonyms. Prompts and answers are never stored.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from adapters.audit import write_entry
from gateway.clock import HOUR_US
from gateway.errors import InvalidRequestError
from gateway.metering import OWN_KEY, SHADOW_KEY, usage_queries
from gateway.metering.tables import usage_hours, usage_ledger, usage_summed
from gateway.metering.usage_queries import merge_sums
from gateway.metering.usage_summary import UsageSummary

_HOURS_AT_ONCE = 24


class Retention:
    """Prunes the ledger of one database; methods block.

    `before_delete(connection, before_us)` is called in the transaction that deletes the rows opened before a time.
    """

    def __init__(
        self, database: Engine, summary: UsageSummary, before_delete: Callable[[Connection, int], None]
    ) -> None:
        self._database = database
        self._summary = summary
        self._before_delete = before_delete

    def prune(self, before_us: int) -> int:
        """Delete the rows of all closed hours before a time; returns how many."""
        end = min(before_us // HOUR_US, self._summary.close_hours())
        deleted = 0
        while (count := self._prune_day(end)) is not None:
            deleted += count
        return deleted

    def _prune_day(self, end: int) -> int | None:
        """Delete a day's rows in one short transaction; None when there is nothing more to delete."""
        with self._database.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            end = min(end, self._summary.verify_closed(connection))
            kept_from = connection.execute(select(usage_summed.c.kept_from_hour)).scalar_one()
            oldest = connection.execute(select(func.min(usage_ledger.c.opened_us))).scalar()
            if oldest is None or oldest >= max(end, kept_from) * HOUR_US:
                return None
            self._add_late_rows(connection, kept_from)
            until = max(kept_from, min(end, max(kept_from, oldest // HOUR_US) + _HOURS_AT_ONCE))
            self._before_delete(connection, until * HOUR_US)
            gone = connection.execute(delete(usage_ledger).where(usage_ledger.c.opened_us < until * HOUR_US)).rowcount
            self._subtract_counts(connection, kept_from, until)
            return gone

    @staticmethod
    def _add_late_rows(connection: Connection, kept_from: int) -> None:
        """Add rows that arrived in pruned hours to their sums."""
        late = usage_queries.ledger_sums(connection, (0, kept_from * HOUR_US), HOUR_US)
        for hour in sorted({sums.period for sums in late}):
            known = usage_queries.hour_sums(connection, (hour, hour + 1), HOUR_US)
            connection.execute(delete(usage_hours).where(usage_hours.c.hour == hour))
            here = merge_sums([*known, *(sums for sums in late if sums.period == hour)])
            connection.execute(insert(usage_hours), usage_queries.rows_of(here))

    @staticmethod
    def _subtract_counts(connection: Connection, begin: int, end: int) -> None:
        """Subtract pruned hours from the row counts by which closed hours are verified."""
        hours, summed = usage_hours.c, usage_summed.c
        sums = select(func.coalesce(func.sum(hours.requests), 0), func.coalesce(func.sum(hours.unsettled), 0))
        requests, unsettled = connection.execute(sums.where(hours.hour >= begin, hours.hour < end)).one()
        values = {"requests": summed.requests - int(requests), "unsettled": summed.unsettled - int(unsettled)}
        connection.execute(update(usage_summed).values(kept_from_hour=end, **values))


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """The tenant's pseudonym, and how many rows and keys were renamed; running requests keep the name."""

    pseudonym: str
    rows: int
    keys: int


class TenantErasure:
    """Erases tenants' names from the usage of one database; methods block. `flush` folds pending rows first."""

    def __init__(self, database: Engine, flush: Callable[[], object]) -> None:
        self._database = database
        self._flush = flush

    def erase(self, tenant: str, *, actor: str) -> ErasureResult:
        """Replace a tenant's name and key ids by pseudonyms; raises `InvalidRequestError` when it has no usage.

        The audit log records the pseudonym, not the name.
        """
        if tenant in (OWN_KEY, SHADOW_KEY):
            raise InvalidRequestError(f"'{tenant}' is the gateway itself and cannot be erased.", param="tenant")
        self._flush()
        with self._database.begin() as connection:
            keys = self._keys(connection, tenant)
            if not keys:
                raise InvalidRequestError(
                    f"There is no usage of a tenant '{tenant}'; see `turntable usage --group-by tenant`.",
                    param="tenant",
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
