"""Registry: names, versions and traffic policies of adapters, durable in SQL.

The registry is the desired state: its live versions must become true in the engine again after any restart.
Readers on the hot path use `snapshot`, an immutable view that every change replaces, so resolving a name never
touches the database. Several gateways may share one database: changes wait for each other, and `refresh` loads the
changes of the others.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Engine, insert, update

from adapters.audit import (
    ADDED,
    Dossier,
    Evidence,
    StateChange,
    keep_evidence,
    read_dossier,
    read_entries,
    read_evidence,
    read_history,
    read_kinds,
    record_evidence,
    storable,
    subject_of,
    write_entry,
)
from adapters.errors import InUseError, NotReadyError, PolicyError, StaleLiveError, UnknownAdapterError
from adapters.manifest import Manifest
from adapters.ref import AdapterRef
from adapters.snapshot import RegistrySnapshot, State, TrafficPolicy, Version
from adapters.tables import NOTHING, adapters, catch_up, newest_revision, next_revision, versions, write_policy

_NONE: Mapping[str, Any] = MappingProxyType({})
PROMOTION = "promotion"
"""Kind of evidence for the promotion gate of the last promotion."""
Judge = Callable[[Dossier], Mapping[str, Any]]
"""Promotion gate: returns the evidence for a promotion, or raises when it is refused."""


class RegistryTransaction:
    """`snapshot` is the truth, what this change did so far included: no other change happens until it is over."""

    def __init__(self, connection: Connection, snapshot: RegistrySnapshot, revision: int, actor: str) -> None:
        self.connection = connection
        self.snapshot = snapshot
        self._revision = revision
        self._actor = actor

    def version(self, name: str, number: int) -> Version:
        """Return a version; raises `UnknownAdapterError`."""
        return self.snapshot.resolve(AdapterRef(name, version=number))

    def policy(self, name: str) -> TrafficPolicy:
        """Return the traffic policy of a name; raises `UnknownAdapterError`."""
        policy = self.snapshot.policies.get(name)
        if policy is None:
            raise UnknownAdapterError(f"There is no adapter '{name}'; `turntable adapters list` shows what there is.")
        return policy

    def ready(self, name: str, number: int, purpose: str) -> Version:
        """Return a READY version; raises `NotReadyError` with the reason."""
        version = self.version(name, number)
        if version.state is not State.READY:
            why = f": {version.reason}" if version.reason else ""
            raise NotReadyError(f"{name}@v{number} is {version.state}{why}; only a ready version can be {purpose}.")
        return version

    def add(self, name: str, manifest: Manifest) -> Version:
        """Add a REGISTERED version under the next number."""
        now = datetime.now(UTC)
        if name not in self.snapshot.versions:
            self.connection.execute(insert(adapters).values(name=name, revision=self._revision, created_at=now))
        number = len(self.snapshot.versions.get(name, ())) + 1
        added = Version(name, number, manifest.digest, State.REGISTERED, "", manifest)
        self.connection.execute(
            insert(versions).values(
                name=name,
                version=number,
                digest=manifest.digest,
                state=added.state,
                reason="",
                manifest=manifest.model_dump(mode="json"),
                revision=self._revision,
                created_at=now,
            )
        )
        self._moved(added, self.snapshot.policies.get(name, TrafficPolicy()))
        return added

    def set_state(self, version: Version, state: State, reason: str) -> Version:
        """Move a version; one that leaves READY takes no more traffic as canary or shadow."""
        policy = self.snapshot.policies[version.name]
        if state is State.RETIRED and version.version in policy.routed:
            raise InUseError(
                f"{version.name}@v{version.version} takes traffic; promote another version or end its split first."
            )
        row = (versions.c.name == version.name) & (versions.c.version == version.version)
        values = {"state": state, "reason": storable(reason), "revision": self._revision}
        self.connection.execute(update(versions).where(row).values(**values))
        moved = replace(version, state=state, reason=storable(reason))
        self._moved(moved, policy if state is State.READY else policy.without(version.version))
        return moved

    def set_policy(self, name: str, policy: TrafficPolicy) -> TrafficPolicy:
        """Replace the traffic policy of a name."""
        write_policy(self.connection, name, policy, self._revision)
        self.snapshot = self.snapshot.changed({name: policy}, ())
        return policy

    def _moved(self, version: Version, policy: TrafficPolicy) -> None:
        write_policy(self.connection, version.name, policy, self._revision)
        self.snapshot = self.snapshot.changed({version.name: policy}, (version,))

    def log(self, action: str, subject: str, evidence: Mapping[str, Any]) -> None:
        """Append the change to the audit log."""
        write_entry(self.connection, self._actor, action, subject, evidence)


class Registry:
    """Durable names, versions and policies over one SQLAlchemy engine; methods block, so event loops call them in a
    thread. A change is all or nothing, is on the audit log, and is in `snapshot` once it is committed.
    """

    def __init__(self, database: Engine) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._seen = -1
        self.snapshot: RegistrySnapshot = NOTHING
        self.refresh()

    def refresh(self) -> bool:
        """Load changes of other processes; returns whether there were any. Cheap without changes."""
        with self._lock, self._database.connect() as connection:
            newest = newest_revision(connection)
            if newest == self._seen:
                return False
            self.snapshot, self._seen = catch_up(connection, self.snapshot, self._seen), newest
            return True

    def add(self, name: str, manifest: Manifest, *, actor: str, evidence: Mapping[str, Any] = _NONE) -> Version:
        """Register stored content under the next version number of `name`; equal content keeps its number.

        Content that was retired is REGISTERED again.
        """
        with self._change(actor) as change:
            known = (v for v in change.snapshot.versions.get(name, ()) if v.digest == manifest.digest)
            version = next(known, None)
            if version is None:
                version = change.add(name, manifest)
            elif version.state is State.RETIRED:
                version = change.set_state(version, State.REGISTERED, "")
            else:
                return version
            change.log(ADDED, subject_of(name, version.version), {**evidence, "digest": version.digest})
            return version

    def set_state(
        self, version: Version, state: State, reason: str, *, actor: str, evidence: Mapping[str, Any] = _NONE
    ) -> Version:
        """Change the state of a version, with a reason for users.

        A version that leaves READY stops being canary or shadow. `InUseError` when a version that takes traffic would
        be retired; `NotReadyError` when it is retired already.
        """
        with self._change(actor) as change:
            return _move(change, change.version(version.name, version.version), state, reason, evidence)

    def retire(self, name: str, number: int, *, actor: str, reason: str = "") -> Version:
        """Take a version out of service for good; `InUseError` while it is live, canary or shadow."""
        with self._change(actor) as change:
            return _move(change, change.version(name, number), State.RETIRED, reason, _NONE)

    def promote(
        self,
        name: str,
        number: int,
        *,
        actor: str,
        expect_live: int | None = None,
        judge: Judge | None = None,
    ) -> Version:
        """Promote a READY version to live, and no longer canary or shadow; allows rollback to the previous one.

        With `expect_live`, only if that version is live at this moment, else `StaleLiveError`. `judge` decides on what
        is true in the very moment of the change; its grounds are kept and on the log.
        """
        with self._change(actor) as change:
            version = change.ready(name, number, "promoted")
            policy = change.snapshot.policies[name]
            _expect(name, policy, expect_live)
            grounds = judge(read_dossier(change.connection, version)) if judge else {}
            change.set_policy(name, policy.promoted(number))
            change.log("promote", subject_of(name, number), {**grounds, "expect_live": expect_live})
            if judge:
                keep_evidence(change.connection, name, number, Evidence(PROMOTION, datetime.now(UTC), actor, grounds))
            return version

    def rollback(
        self, name: str, *, actor: str, expect_live: int | None = None, evidence: Mapping[str, Any] = _NONE
    ) -> Version:
        """Roll back to the previously live version; raises `PolicyError` when there is none."""
        with self._change(actor) as change:
            policy = change.policy(name)
            _expect(name, policy, expect_live)
            back = policy.rolled_back()
            assert back.live is not None, "a policy that was rolled back has a live version"
            version = change.ready(name, back.live, "rolled back to")
            change.set_policy(name, back)
            change.log("rollback", subject_of(name, back.live), {**evidence, "from": policy.live})
            return version

    def withdraw(self, name: str, *, actor: str) -> Version:
        """Take a name out of traffic, canary, shadow and pin with it; returns the version that was live.

        A rollback brings it back. `PolicyError` when nothing is live.
        """
        with self._change(actor) as change:
            policy = change.policy(name)
            withdrawn = policy.withdrawn()
            assert policy.live is not None, "what was withdrawn was live"
            change.set_policy(name, withdrawn)
            change.log("withdraw", subject_of(name, policy.live), {})
            return change.version(name, policy.live)

    def set_canary(
        self,
        name: str,
        number: int,
        percent: float,
        *,
        actor: str,
        expect_live: int | None = None,
        evidence: Mapping[str, Any] = _NONE,
        keep: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> TrafficPolicy:
        """Start a canary: a READY version answers a share of the traffic.

        With `expect_live`, only if that version is live at this moment, else `StaleLiveError`. The documents to `keep`
        are recorded with the version, by kind, in the same moment.
        """
        with self._change(actor) as change:
            change.ready(name, number, "canary")
            policy = change.policy(name)
            _expect(name, policy, expect_live)
            changed = replace(policy, canary=policy.split(number, percent))
            change.log("canary", subject_of(name, number), {**evidence, "percent": percent})
            for kind, document in keep.items():
                record_evidence(change.connection, name, number, Evidence(kind, datetime.now(UTC), actor, document))
            return change.set_policy(name, changed)

    def clear_canary(
        self,
        name: str,
        *,
        actor: str,
        expect_live: int | None = None,
        expect_canary: int | None = None,
        evidence: Mapping[str, Any] = _NONE,
    ) -> TrafficPolicy:
        """Stop the canary; with expected versions, only while they are live and canary."""
        with self._change(actor) as change:
            policy = change.policy(name)
            _expect(name, policy, expect_live)
            if policy.canary is None and expect_canary is None:
                return policy
            if policy.canary is None or expect_canary not in (None, policy.canary.version):
                raise StaleLiveError(f"v{expect_canary} is not the canary of {name} any more; look again and retry.")
            change.log("clear_canary", subject_of(name, policy.canary.version), evidence)
            return change.set_policy(name, replace(policy, canary=None))

    def set_shadow(self, name: str, number: int, percent: float, *, actor: str) -> TrafficPolicy:
        """Start a shadow: copy a share of the traffic to a READY version whose answers are dropped."""
        with self._change(actor) as change:
            change.ready(name, number, "shadow")
            policy = change.policy(name)
            changed = replace(policy, shadow=policy.split(number, percent))
            change.log("shadow", subject_of(name, number), {"percent": percent})
            return change.set_policy(name, changed)

    def clear_shadow(self, name: str, *, actor: str) -> TrafficPolicy:
        """Stop the shadow."""
        with self._change(actor) as change:
            policy = change.policy(name)
            if policy.shadow is None:
                return policy
            change.log("clear_shadow", subject_of(name, policy.shadow.version), {})
            return change.set_policy(name, replace(policy, shadow=None))

    def set_pinned(self, name: str, pinned: bool, *, actor: str, limit: int | None = None) -> TrafficPolicy:
        """Pin or unpin the live version of `name`; raises `PolicyError` beyond `limit` pinned names."""
        with self._change(actor) as change:
            policy = change.policy(name)
            if policy.pinned == pinned:
                return policy
            others = sum(policy.pinned for policy in change.snapshot.policies.values())
            if pinned and limit is not None and others >= limit:
                raise PolicyError(f"{others} adapters are pinned and {limit} may be; unpin another one first.")
            change.log("pin" if pinned else "unpin", name, {})
            return change.set_policy(name, replace(policy, pinned=pinned))

    def record_evidence(self, version: Version, kind: str, document: Mapping[str, Any], *, actor: str) -> None:
        """Record evidence of a version, such as a probe result, as the newest of its `kind`."""
        with self._change(actor) as change:
            change.version(version.name, version.version)
            found = Evidence(kind, datetime.now(UTC), actor, document)
            record_evidence(change.connection, version.name, version.version, found)

    def evidence(self, name: str, number: int) -> list[Evidence]:
        """Return the newest evidence of a version, by kind."""
        with self._database.connect() as connection:
            return read_evidence(connection, name, number)

    def dossier(self, version: Version) -> Dossier:
        """Return evidence and state history of a version."""
        with self._database.connect() as connection:
            return read_dossier(connection, version)

    def evidence_of(self, kinds: Sequence[str]) -> dict[tuple[str, int], dict[str, Evidence]]:
        """Return the newest evidence of some kinds for all versions, by name, number and kind."""
        with self._database.connect() as connection:
            return read_kinds(connection, kinds)

    def history(self, name: str, number: int) -> list[StateChange]:
        """Return all states of a version, oldest first."""
        with self._database.connect() as connection:
            return read_history(connection, name, number)

    def audit(self, limit: int = 100, subject: str | None = None) -> list[dict[str, Any]]:
        """Return the newest audit entries: actor, action, subject, evidence.

        `subject` is a name, for all about it and its versions, one version like `name@v3`, or `key:` for all keys.
        """
        with self._database.connect() as connection:
            return read_entries(connection, limit, subject)

    @contextmanager
    def _change(self, actor: str) -> Iterator[RegistryTransaction]:
        """One transaction, alone on the database; readers see what it did once it is committed, never before."""
        with self._lock:
            with self._database.begin() as connection:
                revision = next_revision(connection)
                before = catch_up(connection, self.snapshot, self._seen)
                change = RegistryTransaction(connection, before, revision, actor)
                yield change
            self.snapshot, self._seen = change.snapshot, revision


def _expect(name: str, policy: TrafficPolicy, expect_live: int | None) -> None:
    if expect_live not in (None, policy.live):
        raise StaleLiveError(f"v{expect_live} is not the live version of {name} any more; look again and retry.")


def _move(
    change: RegistryTransaction, version: Version, state: State, reason: str, evidence: Mapping[str, Any]
) -> Version:
    subject = subject_of(version.name, version.version)
    if version.state is State.RETIRED:
        raise NotReadyError(f"{subject} is retired; publish its content again to bring it back.")
    change.log(str(state), subject, {**evidence, "reason": storable(reason)})
    return change.set_state(version, state, reason)
