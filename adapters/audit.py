"""Audit log: actor, action, subject, time and evidence of every change to adapters, versions and API keys."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select

from adapters.snapshot import State, Version
from adapters.tables import audit_log, evidence

ADDED = "add"
RECORDED = "record"


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state change of a version: when, by whom, for which reason, on which evidence."""

    state: State
    at: datetime
    actor: str
    reason: str
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence for or against a version, such as the result of a probe."""

    kind: str
    at: datetime
    actor: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dossier:
    """Newest evidence of each kind and state history of a version, at one moment."""

    version: Version
    evidence: Mapping[str, Evidence]
    history: tuple[StateChange, ...]


def subject_of(name: str, number: int) -> str:
    """Return the subject of a version in the audit log."""
    return f"{name}@v{number}"


def write_entry(connection: Connection, actor: str, action: str, subject: str, document: Mapping[str, Any]) -> None:
    """Append an audit entry, in the transaction of the change that it records."""
    entry = {"at": datetime.now(UTC), "actor": actor, "action": action, "subject": subject}
    connection.execute(insert(audit_log).values(**entry, evidence=dict(document)))


def read_entries(connection: Connection, limit: int, subject: str | None) -> list[dict[str, Any]]:
    """Return the newest audit entries, newest first.

    `subject` is a version (`name@v3`), a name with all its versions, or a kind of subject with its colon (`key:`,
    `tenant:`); None returns the entries of everything.
    """
    query = select(audit_log).order_by(audit_log.c.id.desc()).limit(limit)
    if subject is not None:
        column = audit_log.c.subject
        begins = subject if subject.endswith(":") else f"{subject}@"
        query = query.where(or_(column == subject, column.startswith(begins, autoescape=True)))
    return [{**row, "at": utc(row["at"])} for row in connection.execute(query).mappings()]


def read_history(connection: Connection, name: str, number: int) -> list[StateChange]:
    """Return all states of a version, oldest first."""
    states = {ADDED: State.REGISTERED, **{str(state): state for state in State}}
    rows = connection.execute(
        select(audit_log)
        .where(audit_log.c.subject == subject_of(name, number), audit_log.c.action.in_(states))
        .order_by(audit_log.c.id)
    )
    return [
        StateChange(states[row.action], utc(row.at), row.actor, row.evidence.get("reason", ""), row.evidence)
        for row in rows
    ]


def record_evidence(connection: Connection, name: str, number: int, found: Evidence) -> None:
    """Store evidence as the newest of its kind, and log it."""
    keep_evidence(connection, name, number, found)
    document = {"kind": found.kind, **found.document}
    write_entry(connection, found.actor, RECORDED, subject_of(name, number), document)


def keep_evidence(connection: Connection, name: str, number: int, found: Evidence) -> None:
    """Store evidence as the newest of its kind, without a log entry."""
    key = {"name": name, "version": number, "kind": found.kind}
    connection.execute(delete(evidence).filter_by(**key))
    values = {"document": dict(found.document), "actor": found.actor, "at": found.at}
    connection.execute(insert(evidence).values(**key, **values))


def read_evidence(connection: Connection, name: str, number: int) -> list[Evidence]:
    """Return the newest evidence of a version, by kind."""
    query = select(evidence).filter_by(name=name, version=number).order_by(evidence.c.kind)
    return [Evidence(row.kind, utc(row.at), row.actor, row.document) for row in connection.execute(query)]


def read_dossier(connection: Connection, version: Version) -> Dossier:
    """Return evidence and history of one version."""
    found = read_evidence(connection, version.name, version.version)
    history = read_history(connection, version.name, version.version)
    return Dossier(version, {one.kind: one for one in found}, tuple(history))


def read_kinds(connection: Connection, kinds: Sequence[str]) -> dict[tuple[str, int], dict[str, Evidence]]:
    """Return the newest evidence of some kinds for all versions, in one query."""
    by_version: dict[tuple[str, int], dict[str, Evidence]] = {}
    for row in connection.execute(select(evidence).where(evidence.c.kind.in_(kinds))):
        one = Evidence(row.kind, utc(row.at), row.actor, row.document)
        by_version.setdefault((row.name, row.version), {})[row.kind] = one
    return by_version


def storable(text: str) -> str:
    """Strip NUL and lone surrogates, which databases and JSON cannot hold."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


def utc(stored: datetime) -> datetime:
    """Return a stored time in UTC: SQLite drops the time zone, PostgreSQL answers in its own."""
    return stored.astimezone(UTC) if stored.tzinfo else stored.replace(tzinfo=UTC)
