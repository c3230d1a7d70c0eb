"""API key service: creates, changes, rotates and revokes API keys and tenants, durably in the database.

Several gateways may share one database: a change locks the others out, and `refresh` reads what they changed.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine

from adapters.audit import storable, write_entry
from gateway.auth.keyring import Keyring
from gateway.auth.records import KeyRecord, KeyState, Tenant, key_settings, tenant_settings
from gateway.auth.secrets import KeyHash, load_pepper, new_id, new_key, pepper_mismatch
from gateway.auth.tables import (
    begin_change,
    changed_keys,
    changed_tenants,
    read_revision,
    store_pepper_check,
    write_key,
    write_tenant,
)
from gateway.clock import iso_or_none, now_us
from gateway.errors import ConflictError, NotFoundError
from gateway.settings import Settings

log = logging.getLogger(__name__)


class KeyTransaction:
    """An open change of keys and tenants; `keys` and `tenants` hold the newest state, this change included."""

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
        """Write a key, and its settings to the audit log."""
        key = replace(key, name=storable(key.name))
        write_key(self.connection, key, self._revision)
        self.keys = {**self.keys, key.id: key}
        self._log(action, f"key:{key.id}", key_settings(key))
        return key

    def put_tenant(self, tenant: Tenant, action: str) -> Tenant:
        """Write a tenant, and its settings to the audit log."""
        write_tenant(self.connection, tenant, self._revision)
        self.tenants = {**self.tenants, tenant.name: tenant}
        self._log(action, f"tenant:{tenant.name}", tenant_settings(tenant))
        return tenant

    def _log(self, action: str, subject: str, settings: Mapping[str, Any]) -> None:
        write_entry(self.connection, self._actor, action, subject, settings)


class ApiKeyService:
    """API keys and tenants of one database. All methods block.

    A change is atomic, is written to the audit log without any secret, and is in `keyring` once it is committed.
    """

    def __init__(self, database: Engine, admin_key: str, pepper: str) -> None:
        self._database = database
        self._hash = KeyHash(pepper)
        self.keyring = Keyring(admin_key, self._hash)
        self._lock = threading.Lock()
        self._seen = -1  # before the first revision
        self._keys: Mapping[str, KeyRecord] = {}
        self._tenants: Mapping[str, Tenant] = {}
        with database.connect() as connection:
            if read_revision(connection)[1] not in (None, self._hash.check):
                raise pepper_mismatch()
        self.refresh()

    def digest(self, text: bytes) -> bytes:
        """Hash any bytes with the pepper: equal on every gateway of this database."""
        return self._hash.digest(text)

    def refresh(self) -> bool:
        """Read what other gateways changed; returns whether there was anything. One short query when there was not."""
        with self._lock, self._database.connect() as connection:
            revision, check = read_revision(connection)
            if revision == self._seen:
                return False
            if check not in (None, self._hash.check):
                log.error("%s", pepper_mismatch())
            keys = {key.id: key for key in changed_keys(connection, self._seen)}
            tenants = {tenant.name: tenant for tenant in changed_tenants(connection, self._seen)}
            self._publish(keys, tenants, revision)
            return True

    def keys(self, tenant: str | None = None) -> list[KeyRecord]:
        """List all keys ever created, or those of a tenant, the oldest first."""
        found = (key for key in self._keys.values() if tenant in (None, key.tenant))
        return sorted(found, key=lambda key: (key.created_us, key.id))

    def key(self, key_id: str) -> KeyRecord:
        """Return a key by its public id; raises `NotFoundError`."""
        return _key_in(self._keys, key_id)

    def tenants(self) -> list[Tenant]:
        """List the tenants with limits or budgets of their own, by name."""
        there = (tenant for tenant in self._tenants.values() if tenant.deleted_us is None)
        return sorted(there, key=lambda tenant: tenant.name)

    def tenant(self, name: str) -> Tenant:
        """Return a tenant by name; raises `NotFoundError`."""
        return _tenant_in(self._tenants, name)

    def create(self, draft: KeyRecord, *, actor: str) -> tuple[KeyRecord, str]:
        """Create a key with the settings of `draft`. Returns its record and the key itself, which is stored nowhere."""
        with self._change(actor) as change:
            self._require_pepper(change)
            key_id = new_id()
            secret = new_key(key_id)
            made = replace(draft, id=key_id, digest=self._hash.digest(secret.encode()), created_us=now_us())
            change.put_key(made, "create_key")
            return made, secret

    def change(self, key_id: str, values: Callable[[KeyRecord], Mapping[str, Any]], *, actor: str) -> KeyRecord:
        """Update the fields that `values` returns for the key; raises `ConflictError` when it is revoked."""
        with self._change(actor) as change:
            key = _usable(change.keys, key_id)
            return change.put_key(replace(key, **values(key)), "change_key")

    def rotate(self, key_id: str, *, overlap_us: int, actor: str) -> tuple[KeyRecord, str]:
        """Give a key a new secret, returned second; the previous one stays valid for `overlap_us`.

        A key has one previous secret. While an earlier rotation still keeps that valid, only a rotation without overlap
        may replace it; raises `ConflictError` otherwise.
        """
        with self._change(actor) as change:
            self._require_pepper(change)
            key = _usable(change.keys, key_id)
            if overlap_us and (key.old_until_us or 0) > now_us():
                raise ConflictError(
                    f"The previous secret of key {key_id} is valid until {iso_or_none(key.old_until_us)}, as promised "
                    "by its last rotation; rotate again after that, or with overlap_s 0, which ends every earlier "
                    "secret at once."
                )
            secret = new_key(key_id)
            rotated = replace(
                key,
                digest=self._hash.digest(secret.encode()),
                old_digest=key.digest,
                old_until_us=now_us() + overlap_us,
            )
            return change.put_key(rotated, "rotate_key"), secret

    def revoke(self, key_id: str, *, actor: str) -> KeyRecord:
        """Revoke a key permanently, with all its secrets; revoking it again changes nothing."""
        with self._change(actor) as change:
            key = _key_in(change.keys, key_id)
            if key.revoked_us is not None:
                return key
            return change.put_key(replace(key, revoked_us=now_us()), "revoke_key")

    def put_tenant(self, draft: Tenant, *, actor: str) -> Tenant:
        """Create a tenant, or replace its limits and budgets."""
        with self._change(actor) as change:
            known = change.tenants.get(draft.name)
            created_us = now_us() if known is None or known.deleted_us is not None else known.created_us
            return change.put_tenant(replace(draft, created_us=created_us, deleted_us=None), "set_tenant")

    def change_tenant(self, name: str, values: Callable[[Tenant], Mapping[str, Any]], *, actor: str) -> Tenant:
        """Update the fields that `values` returns for the tenant; raises `NotFoundError`."""
        with self._change(actor) as change:
            tenant = _tenant_in(change.tenants, name)
            return change.put_tenant(replace(tenant, **values(tenant)), "set_tenant")

    def delete_tenant(self, name: str, *, actor: str) -> Tenant:
        """Delete the limits and budgets of a tenant; raises `ConflictError` while it has active keys."""
        with self._change(actor) as change:
            tenant, now = _tenant_in(change.tenants, name), now_us()
            active = [k.id for k in change.keys.values() if k.tenant == name and k.state(now) is KeyState.ACTIVE]
            if active:
                raise ConflictError(
                    f"Tenant '{name}' has {len(active)} active keys, {min(active)} among them, which would have no "
                    "limits; revoke them first."
                )
            return change.put_tenant(replace(tenant, deleted_us=now), "delete_tenant")

    @contextmanager
    def _change(self, actor: str) -> Iterator[KeyTransaction]:
        """Open a transaction that excludes all other changes and starts from the newest state."""
        with self._lock:
            with self._database.begin() as connection:
                revision, check = begin_change(connection)
                keys = {**self._keys, **{key.id: key for key in changed_keys(connection, self._seen)}}
                tenants = {
                    **self._tenants,
                    **{tenant.name: tenant for tenant in changed_tenants(connection, self._seen)},
                }
                change = KeyTransaction(connection, keys, tenants, revision, check, actor)
                yield change
            self._publish(change.keys, change.tenants, revision)

    def _publish(self, keys: Mapping[str, KeyRecord], tenants: Mapping[str, Tenant], revision: int) -> None:
        """Update the keyring: changed keys, and all keys of changed tenants."""
        new_keys = {name: key for name, key in keys.items() if self._keys.get(name) is not key}
        new_tenants = {name: tenant for name, tenant in tenants.items() if self._tenants.get(name) is not tenant}
        self._keys = {**self._keys, **new_keys}
        self._tenants = {**self._tenants, **new_tenants}
        touched = [key for key in self._keys.values() if key.id in new_keys or key.tenant in new_tenants]
        accounts = {tenant.name: tenant.account for tenant in self._tenants.values() if tenant.deleted_us is None}
        self.keyring.update(touched, accounts)
        self._seen = revision

    def _require_pepper(self, change: KeyTransaction) -> None:
        """Store the pepper's check value with the first key; raises `ConflictError` when it differs later."""
        if change.pepper_check is None:
            store_pepper_check(change.connection, self._hash.check)
        elif change.pepper_check != self._hash.check:
            raise ConflictError(str(pepper_mismatch()))


def open_keys(settings: Settings, database: Engine, admin_key: str) -> ApiKeyService:
    """Build the service from the settings; raises `PepperError` when this gateway cannot check the stored keys."""
    given = settings.key_pepper
    pepper = load_pepper(settings.data_dir, None if given is None else given.get_secret_value())
    return ApiKeyService(database, admin_key, pepper)


def _key_in(keys: Mapping[str, KeyRecord], key_id: str) -> KeyRecord:
    if key_id not in keys:
        raise NotFoundError(f"There is no key '{key_id[:100]}'; `turntable keys list` shows the ids of all.")
    return keys[key_id]


def _usable(keys: Mapping[str, KeyRecord], key_id: str) -> KeyRecord:
    key = _key_in(keys, key_id)
    if key.revoked_us is not None:
        raise ConflictError(f"Key {key_id} is revoked, which cannot be undone; create another one.")
    return key


def _tenant_in(tenants: Mapping[str, Tenant], name: str) -> Tenant:
    tenant = tenants.get(name)
    if tenant is None or tenant.deleted_us is not None:
        raise NotFoundError(f"The tenant '{name[:100]}' has no limits or budgets; `turntable tenants list` shows all.")
    return tenant
