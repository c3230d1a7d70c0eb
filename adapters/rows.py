"""Between rows and snapshots: reading what has changed in the tables, and writing a name's policy back."""

from typing import Any

from sqlalchemy import Connection, Row, and_, select, update

from adapters.manifest import Manifest
from adapters.policy import Policy, Split
from adapters.snapshot import Snapshot, State, Version
from adapters.tables import adapters, revisions, versions

NOTHING = Snapshot({}, {}, {})


def newest_revision(connection: Connection) -> int:
    """The revision of the newest change of all."""
    return connection.scalar(select(revisions.c.revision)) or 0


def next_revision(connection: Connection) -> int:
    """Begin a change: waits until every other change is over, on any database, and returns this one's revision."""
    raised = update(revisions).values(revision=revisions.c.revision + 1).returning(revisions.c.revision)
    return int(connection.execute(raised).scalar_one())


def catch_up(connection: Connection, snapshot: Snapshot, seen: int) -> Snapshot:
    """The snapshot with all that changed after revision `seen`, read in one statement so that it agrees in itself."""
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


def write_policy(connection: Connection, name: str, policy: Policy, revision: int) -> None:
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


def _policy(row: Row[Any]) -> Policy:
    canary = Split(row.canary_version, row.canary_percent) if row.canary_version else None
    shadow = Split(row.shadow_version, row.shadow_percent) if row.shadow_version else None
    return Policy(row.live_version, row.previous_version, canary, shadow, row.pinned)


def _version(row: Row[Any]) -> Version:
    manifest = Manifest.model_validate(row.manifest)
    return Version(row.name, row.version, row.digest, State(row.state), row.reason, manifest)
