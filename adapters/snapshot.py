"""Immutable view of the registry: versions, their states, and the traffic policy of each name.

A policy is the live version, the previous one, canary, shadow and pin.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from adapters.errors import PolicyError, UnknownAdapterError
from adapters.manifest import Manifest
from adapters.ref import AdapterRef

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """Share of a name's traffic (0 < percent <= 100) for a canary or a shadow."""

    version: int
    percent: float


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """Traffic policy of one name.

    `live` answers what neither a ref nor the canary takes, `previous` was live before it, and `pinned` asks that the
    live version stays resident. Canary and shadow are READY versions other than the live one.
    """

    live: int | None = None
    previous: int | None = None
    canary: TrafficSplit | None = None
    shadow: TrafficSplit | None = None
    pinned: bool = False

    @property
    def routed(self) -> list[int]:
        """Return the versions that the bare name can route to, in order."""
        splits = {split.version for split in (self.canary, self.shadow) if split}
        return sorted(splits | ({self.live} if self.live else set()))

    def promoted(self, number: int) -> "TrafficPolicy":
        """Return the policy with `number` live; the previous live version is kept for rollback."""
        previous = self.live if number != self.live else self.previous
        return replace(self.without(number), live=number, previous=previous)

    def rolled_back(self) -> "TrafficPolicy":
        """Return the policy with the previous version live; a second rollback cannot undo the first."""
        if self.previous is None:
            raise PolicyError("There is no earlier version to roll back to; promote one instead.")
        return replace(self.without(self.previous), live=self.previous, previous=None)

    def withdrawn(self) -> "TrafficPolicy":
        """Return the policy without a live version; the previous one is kept for rollback."""
        if self.live is None:
            raise PolicyError("There is no live version to withdraw.")
        return TrafficPolicy(previous=self.live)

    def without(self, number: int) -> "TrafficPolicy":
        """Return the policy without `number` as canary or shadow."""
        canary = self.canary if self.canary and self.canary.version != number else None
        shadow = self.shadow if self.shadow and self.shadow.version != number else None
        return replace(self, canary=canary, shadow=shadow)

    def split(self, number: int, percent: float) -> TrafficSplit:
        """Return a canary or shadow of `number`; raises `PolicyError` when it conflicts with the live version."""
        if not 0 < percent <= 100:
            raise PolicyError(f"{percent} percent is no share of traffic; give more than 0 and at most 100.")
        if self.live is None:
            raise PolicyError("There is no live version to share traffic with; promote one first.")
        if number == self.live:
            raise PolicyError(f"v{number} is live and takes all traffic already; choose another version.")
        return TrafficSplit(number, float(percent))


class State(StrEnum):
    """State of a version.

    REGISTERED: stored, not yet proven. READY: routable. QUARANTINED: never routable, with the reason. RETIRED: taken
    out of service for good, its files may be gone; publishing the same content again begins anew.
    """

    REGISTERED = "registered"
    READY = "ready"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a named adapter; `engine_name` is unique to its exact weights."""

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
class RegistrySnapshot:
    """All names and versions at one moment; each name's versions are numbered from 1 without gaps.

    `live` maps a name to its live version number, the part of `policies` that every request needs.
    """

    versions: Mapping[str, tuple[Version, ...]]
    policies: Mapping[str, TrafficPolicy]
    live: Mapping[str, int]

    def resolve(self, ref: AdapterRef) -> Version:
        """Resolve a ref to a version; raises `UnknownAdapterError`."""
        versions = self.versions.get(ref.name, ())
        if ref.digest12:
            for version in versions:
                if version.digest[:12] == ref.digest12:
                    return version
        else:
            wanted = ref.version or self.live.get(ref.name, 0)
            if 0 < wanted <= len(versions):
                return versions[wanted - 1]
        raise UnknownAdapterError(
            f"There is no adapter version '{ref}'; `turntable adapters list` shows what there is."
        )

    def live_versions(self) -> list[Version]:
        """Return the READY live versions, by name."""
        return list(self._ready((name, [number]) for name, number in sorted(self.live.items())))

    def routed_versions(self) -> list[Version]:
        """Return all READY versions that a bare name can route to, by name: live, canary or shadow."""
        return list(self._ready((name, policy.routed) for name, policy in sorted(self.policies.items())))

    def pinned_versions(self) -> list[Version]:
        """Return the READY live versions of pinned names, which stay resident, by name."""
        pinned = sorted(name for name, policy in self.policies.items() if policy.pinned)
        return list(self._ready((name, [self.live[name]]) for name in pinned if name in self.live))

    def changed(self, policies: Mapping[str, TrafficPolicy], versions: Iterable[Version]) -> "RegistrySnapshot":
        """Return the snapshot with policies and versions replaced or added; new versions come in order."""
        if not policies:
            return self
        of_names = {name: self.versions.get(name, ()) for name in policies}
        for version in versions:
            old = of_names[version.name]
            of_names[version.name] = (*old[: version.version - 1], version, *old[version.version :])
        all_policies = _merged(self.policies, policies)
        live = {name: policy.live for name, policy in all_policies.items() if policy.live is not None}
        return RegistrySnapshot(_merged(self.versions, of_names), all_policies, live)

    def _ready(self, wanted: Iterable[tuple[str, list[int]]]) -> Iterator[Version]:
        for name, numbers in wanted:
            for number in numbers:
                version = self.versions[name][number - 1]
                if version.state is State.READY:
                    yield version


def _merged(old: Mapping[str, _Value], new: Mapping[str, _Value]) -> Mapping[str, _Value]:
    merged = {**old, **new}
    return merged if new.keys() <= old.keys() else dict(sorted(merged.items()))
