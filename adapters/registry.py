"""The registry: names, versions, the live pointer and the audit log, in SQL.

The registry is the desired state: what it says is live must become true in the engine again after any restart.
Readers on the hot path use `snapshot`, an immutable view that every change replaces, so resolving a name never
touches the database.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    DateTime,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    func,
    insert,
    select,
    update,
)

from adapters.errors import NotReadyError, StaleLiveError, UnknownAdapterError
from adapters.manifest import Manifest
from adapters.ref import AdapterRef

metadata = MetaData()
_adapters = Table(
    "adapters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("live_version", Integer),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
_versions = Table(
    "adapter_versions",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("manifest", JSON, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
_audit = Table(
    "audit_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String, nullable=False),
    Column("evidence", JSON, nullable=False),
)


class State(StrEnum):
    """Where a version stands: REGISTERED (stored, not yet proven), READY (routable), QUARANTINED (never routable)."""

    REGISTERED = "registered"
    READY = "ready"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a named adapter; `engine_name` is what the engine knows these exact weights by."""

    name: str
    version: int
    digest: str
    state: State
    reason: str
    manifest: Manifest

    @property
    def engine_name(self) -> str:
        return f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True)
class Snapshot:
    """All names and versions at one moment: `live` maps a name to its live version number."""

    versions: Mapping[str, tuple[Version, ...]]
    live: Mapping[str, int]

    def resolve(self, ref: AdapterRef) -> Version:
        """The version a ref means now; raises `UnknownAdapterError` when there is none."""
        wanted = ref.version if ref.version is not None else self.live.get(ref.name)
        for version in self.versions.get(ref.name, ()):
            if version.digest[:12] == ref.digest12 if ref.digest12 else version.version == wanted:
                return version
        raise UnknownAdapterError(
            f"There is no adapter version '{ref}'; `turntable adapters list` shows what there is."
        )

    def live_versions(self) -> list[Version]:
        """The live version of every name that has one and may be routed to, by name."""
        live = [self.resolve(AdapterRef(name, version=number)) for name, number in sorted(self.live.items())]
        return [version for version in live if version.state is State.READY]


class Registry:
    """Durable names and versions over one SQLAlchemy engine; methods block, so event loops call them in a thread."""

    def __init__(self, database: Engine) -> None:
        self._database = database
        self._lock = threading.Lock()
        with database.connect() as connection:
            self.snapshot = _read(connection)

    def add(self, name: str, manifest: Manifest, *, actor: str) -> Version:
        """Give stored content the next version number of `name`; equal content keeps the number it has."""
        with self._change() as connection:
            for version in _read(connection).versions.get(name, ()):
                if version.digest == manifest.digest:
                    return version
            now = datetime.now(UTC)
            if connection.scalar(select(_adapters.c.name).where(_adapters.c.name == name)) is None:
                connection.execute(insert(_adapters).values(name=name, created_at=now))
            newest = connection.scalar(select(func.max(_versions.c.version)).where(_versions.c.name == name)) or 0
            added = Version(name, newest + 1, manifest.digest, State.REGISTERED, "", manifest)
            connection.execute(
                insert(_versions).values(
                    name=name,
                    version=added.version,
                    digest=added.digest,
                    state=added.state,
                    reason="",
                    manifest=manifest.model_dump(mode="json"),
                    created_at=now,
                )
            )
            self._log(connection, actor, "add", f"{name}@v{added.version}", {"digest": added.digest})
        return added

    def set_state(self, version: Version, state: State, reason: str, *, actor: str) -> Version:
        """Move a version to another state, with the reason that users will be shown."""
        with self._change() as connection:
            _read(connection).resolve(AdapterRef(version.name, version=version.version))
            row = (_versions.c.name == version.name) & (_versions.c.version == version.version)
            connection.execute(update(_versions).where(row).values(state=state, reason=reason))
            self._log(connection, actor, str(state), f"{version.name}@v{version.version}", {"reason": reason})
        return replace(version, state=state, reason=reason)

    def promote(self, name: str, number: int, *, actor: str, expect_live: int | None = None) -> Version:
        """Make a READY version live; with `expect_live`, only if that version is live at this moment."""
        with self._change() as connection:
            version = _read(connection).resolve(AdapterRef(name, version=number))
            if version.state is not State.READY:
                why = f": {version.reason}" if version.reason else ""
                raise NotReadyError(f"{name}@v{number} is {version.state}{why}; only a ready version can be promoted.")
            row = _adapters.c.name == name
            if expect_live is not None:
                row &= _adapters.c.live_version == expect_live
            if connection.execute(update(_adapters).where(row).values(live_version=number)).rowcount != 1:
                raise StaleLiveError(
                    f"v{expect_live} is not the live version of {name} any more; look again and retry."
                )
            self._log(connection, actor, "promote", f"{name}@v{number}", {"expect_live": expect_live})
        return version

    @contextmanager
    def _change(self) -> Iterator[Connection]:
        """One transaction; readers see what it did once it is committed, never before."""
        with self._lock:
            with self._database.begin() as connection:
                yield connection
                changed = _read(connection)
            self.snapshot = changed

    def audit(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest entries of the audit log: who did what to which version on which evidence."""
        with self._database.connect() as connection:
            rows = connection.execute(select(_audit).order_by(_audit.c.id.desc()).limit(limit)).mappings()
            return [{**row, "at": _utc(row["at"])} for row in rows]

    @staticmethod
    def _log(connection: Connection, actor: str, action: str, subject: str, evidence: Mapping[str, Any]) -> None:
        entry = {
            "at": datetime.now(UTC),
            "actor": actor,
            "action": action,
            "subject": subject,
            "evidence": dict(evidence),
        }
        connection.execute(insert(_audit).values(**entry))


def _utc(stored: datetime) -> datetime:
    """SQLite drops the time zone that every time was written with; PostgreSQL answers in its own."""
    return stored.astimezone(UTC) if stored.tzinfo else stored.replace(tzinfo=UTC)


def _read(connection: Connection) -> Snapshot:
    versions: dict[str, tuple[Version, ...]] = {}
    for row in connection.execute(select(_versions).order_by(_versions.c.name, _versions.c.version)):
        version = Version(
            row.name,
            row.version,
            row.digest,
            State(row.state),
            row.reason,
            Manifest.model_validate(row.manifest),
        )
        versions[row.name] = (*versions.get(row.name, ()), version)
    live = connection.execute(
        select(_adapters.c.name, _adapters.c.live_version).where(_adapters.c.live_version.is_not(None))
    )
    return Snapshot(versions, {row.name: row.live_version for row in live})
