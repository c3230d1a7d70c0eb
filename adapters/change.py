"""One change of the registry while its transaction is open: what is true now, and the rows it writes."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, update

from adapters.audit import storable, write_entry
from adapters.errors import InUseError, NotReadyError, UnknownAdapterError
from adapters.manifest import Manifest
from adapters.policy import Policy
from adapters.ref import AdapterRef
from adapters.rows import write_policy
from adapters.snapshot import Snapshot, State, Version
from adapters.tables import adapters, versions


class Change:
    """`snapshot` is the truth, what this change did so far included: no other change happens until it is over."""

    def __init__(self, connection: Connection, snapshot: Snapshot, revision: int, actor: str) -> None:
        self.connection = connection
        self.snapshot = snapshot
        self._revision = revision
        self._actor = actor

    def version(self, name: str, number: int) -> Version:
        """The version as it stands; raises `UnknownAdapterError`."""
        return self.snapshot.resolve(AdapterRef(name, version=number))

    def policy(self, name: str) -> Policy:
        """The traffic policy of a name; raises `UnknownAdapterError`."""
        policy = self.snapshot.policies.get(name)
        if policy is None:
            raise UnknownAdapterError(f"There is no adapter '{name}'; `turntable adapters list` shows what there is.")
        return policy

    def ready(self, name: str, number: int, purpose: str) -> Version:
        """The version, if it is READY; raises `NotReadyError` with the reason that it is not."""
        version = self.version(name, number)
        if version.state is not State.READY:
            why = f": {version.reason}" if version.reason else ""
            raise NotReadyError(f"{name}@v{number} is {version.state}{why}; only a ready version can be {purpose}.")
        return version

    def add(self, name: str, manifest: Manifest) -> Version:
        """A new REGISTERED version under the next number."""
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
        self._moved(added, self.snapshot.policies.get(name, Policy()))
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

    def set_policy(self, name: str, policy: Policy) -> Policy:
        """Replace the traffic policy of a name."""
        write_policy(self.connection, name, policy, self._revision)
        self.snapshot = self.snapshot.changed({name: policy}, ())
        return policy

    def _moved(self, version: Version, policy: Policy) -> None:
        write_policy(self.connection, version.name, policy, self._revision)
        self.snapshot = self.snapshot.changed({version.name: policy}, (version,))

    def log(self, action: str, subject: str, evidence: Mapping[str, Any]) -> None:
        """Put the change on the audit log."""
        write_entry(self.connection, self._actor, action, subject, evidence)
