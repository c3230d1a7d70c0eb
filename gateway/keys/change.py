"""One change of keys and tenants while its transaction is open: what is true now, and the rows it writes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from adapters.audit import storable, write_entry
from gateway.keys.documents import key_settings, tenant_settings
from gateway.keys.records import KeyRecord, Tenant
from gateway.keys.tables import write_key, write_tenant


class KeyChange:
    """`keys` and `tenants` are the truth, what this change did so far included: no other happens until it is over."""

    def __init__(
        self,
        connection: Connection,
        keys: Mapping[str, KeyRecord],
        tenants: Mapping[str, Tenant],
        revision: int,
        pepper_check: str | None,
        actor: str,
    ) -> None:
        self.connection = connection
        self.keys = keys
        self.tenants = tenants
        self.pepper_check = pepper_check
        self._revision = revision
        self._actor = actor

    def put_key(self, key: KeyRecord, action: str) -> KeyRecord:
        """Write a key, and onto the audit log what it may do now."""
        key = replace(key, name=storable(key.name))
        write_key(self.connection, key, self._revision)
        self.keys = {**self.keys, key.id: key}
        self._log(action, f"key:{key.id}", key_settings(key))
        return key

    def put_tenant(self, tenant: Tenant, action: str) -> Tenant:
        """Write a tenant, and onto the audit log its limits and budgets."""
        write_tenant(self.connection, tenant, self._revision)
        self.tenants = {**self.tenants, tenant.name: tenant}
        self._log(action, f"tenant:{tenant.name}", tenant_settings(tenant))
        return tenant

    def _log(self, action: str, subject: str, settings: Mapping[str, Any]) -> None:
        write_entry(self.connection, self._actor, action, subject, settings)
