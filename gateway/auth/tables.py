"""Database tables of API keys and tenants, and reading and writing their rows."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from gateway.auth.caller import Budget, Limits, Period, Scope
from gateway.auth.records import KeyRecord, Tenant

_LIMITS = ("rpm", "tpm", "max_concurrency", "max_tokens")
metadata = MetaData()
# One row. Every change begins by raising the revision, which makes changes wait for each other on any database and
# tells other gateways that there is something to read; `pepper_check` says which pepper keys are hashed under.
revisions = Table(
    "keys_revision",
    metadata,
    Column("revision", Integer, primary_key=True),
    Column("pepper_check", String(64)),
)
# `revision` is the one that last changed the row. Nothing is ever deleted: the ledger goes on naming keys and tenants.
keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("adapters", JSON, nullable=False),
    *(Column(name, BigInteger) for name in _LIMITS),
    Column("budgets", JSON, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("old_digest", String(64)),
    Column("old_until_us", BigInteger),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
    Column("revision", Integer, nullable=False, index=True),
)
tenants = Table(
    "tenants",
    metadata,
    Column("name", String(64), primary_key=True),
    *(Column(name, BigInteger) for name in _LIMITS),
    Column("budgets", JSON, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("deleted_us", BigInteger),
    Column("revision", Integer, nullable=False, index=True),
)


def read_revision(connection: Connection) -> tuple[int, str | None]:
    """Return the newest revision and the check value of the pepper; None before the first key."""
    row = connection.execute(select(revisions)).one()
    return row.revision, row.pepper_check


def begin_change(connection: Connection) -> tuple[int, str | None]:
    """Lock keys and tenants against other changes and raise the revision; returns as `read_revision`."""
    raised = update(revisions).values(revision=revisions.c.revision + 1)
    row = connection.execute(raised.returning(revisions.c.revision, revisions.c.pepper_check)).one()
    return row.revision, row.pepper_check


def store_pepper_check(connection: Connection, check: str) -> None:
    """Store the check value of the pepper that all keys are hashed with from now on."""
    connection.execute(update(revisions).values(pepper_check=check))


def changed_keys(connection: Connection, since: int) -> Iterator[KeyRecord]:
    """Yield the keys changed after a revision."""
    return map(_key, connection.execute(select(keys).where(keys.c.revision > since)))


def changed_tenants(connection: Connection, since: int) -> Iterator[Tenant]:
    """Yield the tenants changed after a revision."""
    return map(_tenant, connection.execute(select(tenants).where(tenants.c.revision > since)))


def write_key(connection: Connection, key: KeyRecord, revision: int) -> None:
    """Insert or update a key."""
    values = {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "adapters": list(key.adapters),
        **asdict(key.limits),
        "budgets": [asdict(budget) for budget in key.budgets],
        "digest": key.digest.hex(),
        "old_digest": key.old_digest and key.old_digest.hex(),
        "old_until_us": key.old_until_us,
        "created_us": key.created_us,
        "expires_us": key.expires_us,
        "revoked_us": key.revoked_us,
        "revision": revision,
    }
    if not connection.execute(update(keys).where(keys.c.id == key.id).values(**values)).rowcount:
        connection.execute(insert(keys).values(**values))


def write_tenant(connection: Connection, tenant: Tenant, revision: int) -> None:
    """Insert or replace a tenant."""
    values = {
        "name": tenant.name,
        **asdict(tenant.limits),
        "budgets": [asdict(budget) for budget in tenant.budgets],
        "created_us": tenant.created_us,
        "deleted_us": tenant.deleted_us,
        "revision": revision,
    }
    connection.execute(delete(tenants).where(tenants.c.name == tenant.name))
    connection.execute(insert(tenants).values(**values))


def _key(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        name=row.name,
        tenant=row.tenant,
        scopes=frozenset(map(Scope, row.scopes)),
        adapters=tuple(row.adapters),
        limits=_limits(row),
        budgets=_budgets(row.budgets),
        digest=bytes.fromhex(row.digest),
        created_us=row.created_us,
        old_digest=row.old_digest and bytes.fromhex(row.old_digest),
        old_until_us=row.old_until_us,
        expires_us=row.expires_us,
        revoked_us=row.revoked_us,
    )


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(row.name, _limits(row), _budgets(row.budgets), row.created_us, row.deleted_us)


def _limits(row: Row[Any]) -> Limits:
    return Limits(*(getattr(row, name) for name in _LIMITS))


def _budgets(stored: list[dict[str, Any]]) -> tuple[Budget, ...]:
    return tuple(Budget(budget["nano_usd"], Period(budget["period"])) for budget in stored)
