"""SQL tables of the registry, as the gateway's migrations create them; reading changes and writing policies."""

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    DateTime,
    Float,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    and_,
    select,
    update,
)

from adapters.manifest import Manifest
from adapters.snapshot import RegistrySnapshot, State, TrafficPolicy, TrafficSplit, Version

metadata = MetaData()

# One row. Every change begins by raising it, which makes changes wait for each other on any database, and tells other
# gateways that there is something to read.
revisions = Table("registry_revision", metadata, Column("revision", Integer, primary_key=True))

# A name and its traffic policy. `revision` here is the one that last changed the name or any of its versions, and below
# the one that last changed that version.
adapters = Table(
    "adapters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("live_version", Integer),
    Column("previous_version", Integer),
    Column("canary_version", Integer),
    Column("canary_percent", Float),
    Column("shadow_version", Integer),
    Column("shadow_percent", Float),
    Column("pinned", Boolean, nullable=False, default=False),
    Column("revision", Integer, nullable=False, index=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
versions = Table(
    "adapter_versions",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("manifest", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
# The newest document of each kind that speaks for or against a version, such as the probe's.
evidence = Table(
    "adapter_evidence",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("document", JSON, nullable=False),
    Column("actor", String, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String, nullable=False, index=True),
    Column("evidence", JSON, nullable=False),
)


NOTHING = RegistrySnapshot({}, {}, {})


def newest_revision(connection: Connection) -> int:
    """Return the newest revision."""
    return connection.scalar(select(revisions.c.revision)) or 0


def next_revision(connection: Connection) -> int:
    """Begin a change: wait for all other changes on any database; returns its revision."""
    raised = update(revisions).values(revision=revisions.c.revision + 1).returning(revisions.c.revision)
    return int(connection.execute(raised).scalar_one())


def catch_up(connection: Connection, snapshot: RegistrySnapshot, seen: int) -> RegistrySnapshot:
    """Return the snapshot with all changes after revision `seen`, read consistently in one statement."""
    newer = and_(versions.c.name == adapters.c.name, versions.c.revision > seen)
    policies = [column for column in adapters.c if column.name != "revision"]
    query = (
        select(*policies, *(column for column in versions.c if column.name not in ("name", "revision", "created_at")))
        .select_from(adapters.outerjoin(versions, newer))
        .where(adapters.c.revision > seen)
        .order_by(adapters.c.name, versions.c.version)
    )
    rows = connection.execute(query).all()
    return snapshot.changed(
        {row.name: _policy(row) for row in rows}, (_version(row) for row in rows if row.version is not None)
    )


def write_policy(connection: Connection, name: str, policy: TrafficPolicy, revision: int) -> None:
    """Store a name's policy; the revision marks the name, with all its versions, as changed."""
    values = {
        "live_version": policy.live,
        "previous_version": policy.previous,
        "canary_version": policy.canary.version if policy.canary else None,
        "canary_percent": policy.canary.percent if policy.canary else None,
        "shadow_version": policy.shadow.version if policy.shadow else None,
        "shadow_percent": policy.shadow.percent if policy.shadow else None,
        "pinned": policy.pinned,
        "revision": revision,
    }
    connection.execute(update(adapters).where(adapters.c.name == name).values(**values))


def _policy(row: Row[Any]) -> TrafficPolicy:
    canary = TrafficSplit(row.canary_version, row.canary_percent) if row.canary_version else None
    shadow = TrafficSplit(row.shadow_version, row.shadow_percent) if row.shadow_version else None
    return TrafficPolicy(row.live_version, row.previous_version, canary, shadow, row.pinned)


def _version(row: Row[Any]) -> Version:
    manifest = Manifest.model_validate(row.manifest)
    return Version(row.name, row.version, row.digest, State(row.state), row.reason, manifest)
