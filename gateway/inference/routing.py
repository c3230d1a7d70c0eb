"""Resolve: from the model a client named to the base model or one exact adapter version, canary and shadow included.

A name's requests go to its live version; while it has a canary, a share of them goes there instead, always the same
callers (`stickiness`); while it has a shadow, a share of the answered ones is asked again of the shadow.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from adapters import AdapterRef, InvalidRefError, Registry, Snapshot, Split, State, UnknownAdapterError, Version
from gateway.auth import Caller
from gateway.errors import ModelNotFoundError
from gateway.metering import shadow_label

# In this order: what OpenAI calls the end user now, and what it called them before. No hint for a cache: applications
# send the same one for everybody, or another one for each conversation.
_WHO = ("safety_identifier", "user")
# Agents put the person and the session into one name: `user_…_account_…_session_…`, or a JSON object of ids.
_SESSION = re.compile(r"_session_.*", re.DOTALL)
_SHARES = 1 << 64


class Track(StrEnum):
    """Which way a request of a divided name went; requests of undivided names are on no track."""

    LIVE = "live"
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: `model` is the client's word, `engine_model` the engine's; the base has no `version`."""

    model: str
    engine_model: str
    version: Version | None
    track: Track | None = None

    @property
    def label(self) -> str:
        """The adapter's name, or the base's: a value from a closed list, fit for metrics and reports."""
        if self.version is None:
            return self.engine_model
        return shadow_label(self.version.name) if self.track is Track.SHADOW else self.version.name


@dataclass(frozen=True, slots=True)
class Route:
    """Everything that a model's name can mean now; the shares are of `_SHARES`."""

    target: Target
    canary: Target | None = None
    canary_share: int = 0
    shadow: Target | None = None
    shadow_share: int = 0


class Resolver:
    """Reads the registry's snapshot; never touches the database or the engine."""

    def __init__(self, registry: Registry, served_model_name: str) -> None:
        self._registry = registry
        self._base = Route(Target(served_model_name, served_model_name, None))
        self._known: tuple[Snapshot, dict[str, Route]] = (registry.snapshot, {})

    def route_for(self, caller: Caller, model: str) -> Route:
        """All targets of a model name or ref; what the caller may not use does not exist for it."""
        route = self.route(model)
        version = route.target.version
        if not caller.may_use(model if version is None else version.name):
            raise ModelNotFoundError(model)
        return route

    def route(self, model: str) -> Route:
        """All targets of a model name or ref; raises `ModelNotFoundError` for whatever may not be routed to."""
        snapshot, routes = self._known
        if snapshot is not self._registry.snapshot:
            snapshot, routes = self._known = (self._registry.snapshot, {})
        route = routes.get(model)
        if route is None:
            route = self._find(snapshot, model)
            routes[model] = route  # only what exists, so a client cannot make this grow
        return route

    def _find(self, snapshot: Snapshot, model: str) -> Route:
        if model == self._base.target.model:
            return self._base
        try:
            ref = AdapterRef.parse(model)
            version = snapshot.resolve(ref)
        except (InvalidRefError, UnknownAdapterError) as error:
            raise ModelNotFoundError(model) from error
        if version.state is not State.READY:
            raise ModelNotFoundError(model)
        policy = snapshot.policies.get(ref.name)
        if policy is None or ref.version is not None or ref.digest12:
            return Route(Target(model, version.engine_name, version))
        canary, canary_share = _part(snapshot, model, policy.canary, Track.CANARY)
        shadow, shadow_share = _part(snapshot, model, policy.shadow, Track.SHADOW)
        target = Target(model, version.engine_name, version, Track.LIVE if canary else None)
        return Route(target, canary, canary_share, shadow, shadow_share)


def _part(snapshot: Snapshot, name: str, split: Split | None, track: Track) -> tuple[Target | None, int]:
    """The target of a split and its share; nothing while its version may not be routed to."""
    if split is None:
        return None, 0
    version = snapshot.resolve(AdapterRef(name, version=split.version))
    if version.state is not State.READY:
        return None, 0
    return Target(name, version.engine_name, version, track), int(split.percent * _SHARES / 100)


def choose(route: Route, who: str) -> Target:
    """The live or the canary target, always the same one for `who` while the canary stays and does not shrink."""
    canary = route.canary
    if canary is None or canary.version is None:
        return route.target
    # With the version in it, the next canary meets other callers first.
    falls = _fall(f"{canary.model}\0{canary.version.version}\0{who}")
    return canary if falls < route.canary_share else route.target


def mirrored_to(route: Route, request_id: str) -> Target | None:
    """The shadow target when this request is one of those that are asked again."""
    if route.shadow is None or _fall(request_id) >= route.shadow_share:
        return None
    return route.shadow


def stickiness(document: Mapping[str, Any], caller: Caller, request_id: str) -> str:
    """Who a request is from, for a canary: the end user that it names, else the application's key.

    The admin key stands for nobody in particular: with it, and without an end user, each request falls by itself.
    """
    metadata = document.get("metadata")
    named = [document.get(field) for field in _WHO]
    named.append(metadata.get("user_id") if isinstance(metadata, dict) else None)
    for name in named:
        if isinstance(name, str) and (person := _person(name)):
            return f"{caller.tenant}\0{person}"
    return request_id if caller.is_admin else caller.key_id


def _person(name: str) -> str:
    """What stays of a user's name from one conversation to the next; empty when it names nothing but the session."""
    if name.startswith("{"):
        try:
            ids = orjson.loads(name)
            kept = {key: value for key, value in ids.items() if "session" not in key and value}
            return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode() if kept else ""
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # no JSON, or nested too deep to be written
            return name
    return _SESSION.sub("", name)


def _fall(text: str) -> int:
    """Where a text falls on [0, `_SHARES`), evenly."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest)
