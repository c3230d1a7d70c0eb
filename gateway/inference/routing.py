"""Route a request: from the model name a client sent to the base model or one exact adapter version.

Requests for a name go to its live version. While the name has a canary, a share of its callers is routed there, always
the same callers (`routing_key`); while it has a shadow, a share of the answered requests is sent to the shadow too.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import orjson

from adapters import AdapterRef, InvalidRefError, Registry, RegistrySnapshot, State, TrafficSplit, UnknownAdapterError
from gateway.auth import Caller
from gateway.core import Route, Target, Track
from gateway.errors import ModelNotFoundError

# In this order: what OpenAI calls the end user now, and what it called them before. No hint for a cache: applications
# send the same one for all users, or another one for each conversation.
_USER_FIELDS = ("safety_identifier", "user")
# Agents put the person and the session into one name: `user_…_account_…_session_…`, or a JSON object of ids.
_SESSION = re.compile(r"_session_.*", re.DOTALL)
_HASHES = 1 << 64


class Resolver:
    """Resolve model names to targets in the registry's snapshot, without the database or an engine."""

    def __init__(self, registry: Registry, served_model_name: str) -> None:
        self._registry = registry
        self._base = Route(Target(served_model_name, served_model_name, None))
        self._cached: tuple[RegistrySnapshot, dict[str, Route]] = (registry.snapshot, {})

    def route_for(self, caller: Caller, model: str) -> Route:
        """Return the route of a model name or ref; raises `ModelNotFoundError` also for what the caller may not use."""
        route = self.route(model)
        version = route.target.version
        if not caller.may_use(model if version is None else version.name):
            raise ModelNotFoundError(model)
        return route

    def route(self, model: str) -> Route:
        """Return the route of a model name or ref; raises `ModelNotFoundError` unless it is the base or READY."""
        snapshot, routes = self._cached
        if snapshot is not self._registry.snapshot:
            snapshot, routes = self._cached = (self._registry.snapshot, {})
        route = routes.get(model)
        if route is None:
            route = self._find(snapshot, model)
            routes[model] = route  # only what exists, so a client cannot make this grow
        return route

    def _find(self, snapshot: RegistrySnapshot, model: str) -> Route:
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
        canary, canary_share = _split_target(snapshot, model, policy.canary, Track.CANARY)
        shadow, shadow_share = _split_target(snapshot, model, policy.shadow, Track.SHADOW)
        target = Target(model, version.engine_name, version, Track.LIVE if canary else None)
        return Route(target, canary, canary_share, shadow, shadow_share)


def _split_target(
    snapshot: RegistrySnapshot, name: str, split: TrafficSplit | None, track: Track
) -> tuple[Target | None, int]:
    """Return the target of a traffic split and its share; none while its version is not READY."""
    if split is None:
        return None, 0
    version = snapshot.resolve(AdapterRef(name, version=split.version))
    if version.state is not State.READY:
        return None, 0
    return Target(name, version.engine_name, version, track), int(split.percent * _HASHES / 100)


def choose_target(route: Route, key: str) -> Target:
    """Return the live or the canary target: the same one for a key while the canary stays and does not shrink."""
    canary = route.canary
    if canary is None or canary.version is None:
        return route.target
    # With the version in it, the next canary meets other callers first.
    hashed = _hash64(f"{canary.model}\0{canary.version.version}\0{key}")
    return canary if hashed < route.canary_share else route.target


def choose_shadow(route: Route, request_id: str) -> Target | None:
    """Return the shadow target for the share of requests that it gets; else None."""
    if route.shadow is None or _hash64(request_id) >= route.shadow_share:
        return None
    return route.shadow


def routing_key(document: Mapping[str, Any], caller: Caller, request_id: str) -> str:
    """Return what keeps a caller on one side of a canary: the end user named in the request, else the API key.

    The admin key is shared by many: with it, and without an end user, each request is routed by itself.
    """
    metadata = document.get("metadata")
    named = [document.get(field) for field in _USER_FIELDS]
    named.append(metadata.get("user_id") if isinstance(metadata, dict) else None)
    for name in named:
        if isinstance(name, str) and (person := _without_session(name)):
            return f"{caller.tenant}\0{person}"
    return request_id if caller.is_admin else caller.key_id


def _without_session(name: str) -> str:
    """Return the part of a user's name that stays from one conversation to the next; may be empty."""
    if name.startswith("{"):
        try:
            ids = orjson.loads(name)
            kept = {key: value for key, value in ids.items() if "session" not in key and value}
            return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode() if kept else ""
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # no JSON, or nested too deep to be written
            return name
    return _SESSION.sub("", name)


def _hash64(text: str) -> int:
    """Hash a text evenly onto 64 bits."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest)
