"""Forgetting a tenant: its name and the ids of its keys in old usage become pseudonyms that lead nowhere; sums stay.

There is nothing else to delete: prompts and answers are never stored.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select, update

from adapters.audit import write_entry
from gateway.costs.tables import usage_hours
from gateway.errors import InvalidRequestError
from gateway.ledger import OWN_KEY, SHADOW_KEY, usage_ledger


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a tenant is called from now on, and how much of its usage was renamed; requests that run keep its name."""

    pseudonym: str
    rows: int
    keys: int


class Forgetting:
    """Renames usage in one database; methods block. `flush` first brings there what is under way."""

    def __init__(self, database: Engine, flush: Callable[[], object]) -> None:
        self._database = database
        self._flush = flush

    def forget(self, tenant: str, *, actor: str) -> Forgotten:
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
        return Forgotten(pseudonym, rows, len(keys))

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
