"""One change of keys and tenants while its transaction is open: what is true now, and the rows it writes.

The key office: gives out keys, changes and revokes them, and keeps the keyring true to the database.

Several gateways may share one database: changes wait for each other, and `refresh` brings in what the others did.

Opening the key office with what the settings say.
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
from gateway.auth.secrets import KeyHash, load_pepper, mismatch, new_id, new_key
from gateway.auth.tables import (
    begin_change,
    changed_keys,
    changed_tenants,
    newest,
    settle_pepper,
    write_key,
    write_tenant,
)
from gateway.clock import iso_or_none, now_us
from gateway.errors import ConflictError, NotFoundError
from gateway.settings import Settings


class KeyTransaction:
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


log = logging.getLogger(__name__)


class ApiKeyService:
    """Durable keys and tenants over one SQLAlchemy engine; methods block, so event loops call them in a thread.

    A change is all or nothing, is on the audit log without any secret, and is in `keyring` once it is committed.
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
            if newest(connection)[1] not in (None, self._hash.check):
                raise mismatch()
        self.refresh()

    def digest(self, text: bytes) -> bytes:
        """A hash under the pepper of something that is no key: the same on every gateway of this database."""
        return self._hash.digest(text)

    def refresh(self) -> bool:
        """Bring in what other gateways changed; True when there was something. Cheap when there was nothing."""
        with self._lock, self._database.connect() as connection:
            revision, check = newest(connection)
            if revision == self._seen:
                return False
            if check not in (None, self._hash.check):
                log.error("%s", mismatch())
            keys = {key.id: key for key in changed_keys(connection, self._seen)}
            tenants = {tenant.name: tenant for tenant in changed_tenants(connection, self._seen)}
            self._take_in(keys, tenants, revision)
            return True

    def keys(self, tenant: str | None = None) -> list[KeyRecord]:
        """All keys that ever were, or a tenant's, the oldest first."""
        found = (key for key in self._keys.values() if tenant in (None, key.tenant))
        return sorted(found, key=lambda key: (key.created_us, key.id))

    def key(self, key_id: str) -> KeyRecord:
        """One key; raises `NotFoundError`."""
        return _key_in(self._keys, key_id)

    def tenants(self) -> list[Tenant]:
        """All tenants with limits or budgets of their own, by name."""
        there = (tenant for tenant in self._tenants.values() if tenant.deleted_us is None)
        return sorted(there, key=lambda tenant: tenant.name)

    def tenant(self, name: str) -> Tenant:
        """One tenant; raises `NotFoundError`."""
        return _tenant_in(self._tenants, name)

    def create(self, draft: KeyRecord, *, actor: str) -> tuple[KeyRecord, str]:
        """Give out a key like `draft`, whose id, digest and time of birth are made here; the key itself comes second,
        and nobody can ever read it again.
        """
        with self._change(actor) as change:
            self._demand_pepper(change)
            key_id = new_id()
            secret = new_key(key_id)
            made = replace(draft, id=key_id, digest=self._hash.digest(secret.encode()), created_us=now_us())
            change.put_key(made, "create_key")
            return made, secret

    def change(self, key_id: str, values: Callable[[KeyRecord], Mapping[str, Any]], *, actor: str) -> KeyRecord:
        """Change the fields that `values` makes of the key as it is; `ConflictError` when it is revoked."""
        with self._change(actor) as change:
            key = _usable(change.keys, key_id)
            return change.put_key(replace(key, **values(key)), "change_key")

    def rotate(self, key_id: str, *, overlap_us: int, actor: str) -> tuple[KeyRecord, str]:
        """Give a key a new secret, which comes second; the one it had is good for `overlap_us` more.

        A key has one earlier secret: while that is promised to somebody, only a rotation without an overlap, which is
        there to end all that was, replaces it. Else `ConflictError`.
        """
        with self._change(actor) as change:
            self._demand_pepper(change)
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
        """End a key for good, with every secret it has; a key that is revoked already stays so."""
        with self._change(actor) as change:
            key = _key_in(change.keys, key_id)
            if key.revoked_us is not None:
                return key
            return change.put_key(replace(key, revoked_us=now_us()), "revoke_key")

    def put_tenant(self, draft: Tenant, *, actor: str) -> Tenant:
        """Make a tenant, or replace its limits and budgets."""
        with self._change(actor) as change:
            there = change.tenants.get(draft.name)
            born_us = now_us() if there is None or there.deleted_us is not None else there.created_us
            return change.put_tenant(replace(draft, created_us=born_us, deleted_us=None), "set_tenant")

    def change_tenant(self, name: str, values: Callable[[Tenant], Mapping[str, Any]], *, actor: str) -> Tenant:
        """Change the fields that `values` makes of the tenant as it is; raises `NotFoundError`."""
        with self._change(actor) as change:
            tenant = _tenant_in(change.tenants, name)
            return change.put_tenant(replace(tenant, **values(tenant)), "set_tenant")

    def delete_tenant(self, name: str, *, actor: str) -> Tenant:
        """Forget the limits and budgets of a tenant; `ConflictError` while keys of it work, which they held back."""
        with self._change(actor) as change:
            tenant, now = _tenant_in(change.tenants, name), now_us()
            working = [k.id for k in change.keys.values() if k.tenant == name and k.state(now) is KeyState.ACTIVE]
            if working:
                raise ConflictError(
                    f"{len(working)} keys of the tenant '{name}' still work, {min(working)} among them, and would "
                    "have no limits; revoke them first."
                )
            return change.put_tenant(replace(tenant, deleted_us=now), "delete_tenant")

    @contextmanager
    def _change(self, actor: str) -> Iterator[KeyTransaction]:
        """One transaction, alone on the database, that begins with what is true now."""
        with self._lock:
            with self._database.begin() as connection:
                revision, check = begin_change(connection)
                keys = {**self._keys, **{key.id: key for key in changed_keys(connection, self._seen)}}
                tenants = {**self._tenants, **{one.name: one for one in changed_tenants(connection, self._seen)}}
                change = KeyTransaction(connection, keys, tenants, revision, check, actor)
                yield change
            self._take_in(change.keys, change.tenants, revision)

    def _take_in(self, keys: Mapping[str, KeyRecord], tenants: Mapping[str, Tenant], revision: int) -> None:
        """Make the keyring true: changed keys, and every key of a tenant that changed."""
        new_keys = {name: key for name, key in keys.items() if self._keys.get(name) is not key}
        new_tenants = {name: tenant for name, tenant in tenants.items() if self._tenants.get(name) is not tenant}
        self._keys = {**self._keys, **new_keys}
        self._tenants = {**self._tenants, **new_tenants}
        touched = [key for key in self._keys.values() if key.id in new_keys or key.tenant in new_tenants]
        accounts = {one.name: one.account for one in self._tenants.values() if one.deleted_us is None}
        self.keyring.update(touched, accounts)
        self._seen = revision

    def _demand_pepper(self, change: KeyTransaction) -> None:
        """The first key decides under which pepper all are hashed; `ConflictError` when ours is another."""
        if change.pepper_check is None:
            settle_pepper(change.connection, self._hash.check)
        elif change.pepper_check != self._hash.check:
            raise ConflictError(str(mismatch()))


def _key_in(keys: Mapping[str, KeyRecord], key_id: str) -> KeyRecord:
    if key_id not in keys:
        raise NotFoundError(f"There is no key '{key_id[:100]}'; `turntable keys list` shows the ids of all.")
    return keys[key_id]


def _usable(keys: Mapping[str, KeyRecord], key_id: str) -> KeyRecord:
    key = _key_in(keys, key_id)
    if key.revoked_us is not None:
        raise ConflictError(f"The key {key_id} is revoked, and stays so; create another one.")
    return key


def _tenant_in(tenants: Mapping[str, Tenant], name: str) -> Tenant:
    tenant = tenants.get(name)
    if tenant is None or tenant.deleted_us is not None:
        raise NotFoundError(f"The tenant '{name[:100]}' has no limits or budgets; `turntable tenants list` shows all.")
    return tenant


def open_keys(settings: Settings, database: Engine, admin_key: str) -> ApiKeyService:
    """The office over a database; raises `PepperError` when this gateway cannot check the keys in it."""
    given = settings.key_pepper
    pepper = load_pepper(settings.data_dir, None if given is None else given.get_secret_value())
    return ApiKeyService(database, admin_key, pepper)
