"""Rollout of adapter versions: promote, roll back, canary, shadow, pin, withdraw, retire.

A version is loaded into the engines before the registry routes requests to it, and one that no longer gets requests
finishes those that run. It is unloaded once no route leads to it, rollback included; its files are deleted when it is
retired.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from adapters import AdapterRef, Dossier, Registry, State, Store, StoreError, TrafficPolicy, Version
from gateway.background import TaskSet
from gateway.engines.adapter_loader import Unloaded
from gateway.engines.pool import EnginePool
from gateway.errors import ConflictError, GatewayError
from gateway.releases.canary import BOUNDS_EVIDENCE, CanaryLimits
from gateway.releases.errors import translated_errors
from gateway.releases.promotion_gate import Override, PromotionGate
from gateway.releases.publish import PROBE_EVIDENCE
from gateway.threads import CRITICAL, FILES

log = logging.getLogger(__name__)
_POLL_S = 0.25


@dataclass(frozen=True)
class Retired:
    """Result of retiring a version: per engine, and for its files."""

    version: Version
    engines: list[Unloaded]
    files: str


class Rollout:
    """Changes the traffic of ready versions; requests on a version that is unloaded have `drain_s` to finish."""

    def __init__(
        self,
        *,
        registry: Registry,
        store: Store,
        pool: EnginePool,
        gate: PromotionGate,
        unloads: TaskSet,
        drain_s: float,
    ) -> None:
        self._registry = registry
        self._store = store
        self._pool = pool
        self._gate = gate
        self._drain_s = drain_s
        self._tasks = unloads
        self._unloads: dict[str, asyncio.Task[None]] = {}

    async def promote(
        self, name: str, number: int, *, expect_live: int | None, actor: str, override: Override | None = None
    ) -> Version:
        """Make a READY version live if the promotion gate allows it; it is resident before it gets a request."""
        before = self._policy(name)
        judge = partial(self._judge, actor=actor, override=override)
        with translated_errors():
            await CRITICAL.run(self._require_grounds, name, number, judge)
            await self._load(name, number)
            version: Version = await CRITICAL.run(
                self._registry.promote, name, number, actor=actor, expect_live=expect_live, judge=judge
            )
        self._unload_unrouted(name, before)
        return version

    async def rollback(self, name: str, *, expect_live: int | None, actor: str) -> Version:
        """Make the previously live version live again."""
        before = self._policy(name)
        with translated_errors():
            if before.previous is not None:
                await self._load(name, before.previous)
            version: Version = await CRITICAL.run(self._registry.rollback, name, actor=actor, expect_live=expect_live)
        self._unload_unrouted(name, before)
        return version

    async def set_canary(
        self,
        name: str,
        number: int,
        percent: float,
        bounds: CanaryLimits,
        *,
        actor: str,
        expect_live: int | None = None,
    ) -> Version:
        """Route a share of a name's requests to a READY version; it is rolled back when it exceeds its limits."""
        before = self._policy(name)
        keep = {BOUNDS_EVIDENCE: asdict(bounds)}
        with translated_errors():
            self._expect(name, expect_live)  # before an engine makes room for it; the registry checks again
            version = await self._load(name, number)
            await CRITICAL.run(
                self._registry.set_canary, name, number, percent, actor=actor, expect_live=expect_live, keep=keep
            )
        self._unload_unrouted(name, before)
        return version

    async def set_shadow(self, name: str, number: int, percent: float, *, actor: str) -> None:
        """Send a copy of a share of a name's requests to a READY version."""
        before = self._policy(name)
        with translated_errors():
            await self._load(name, number)
            await CRITICAL.run(self._registry.set_shadow, name, number, percent, actor=actor)
        self._unload_unrouted(name, before)

    async def clear_canary(self, name: str, *, actor: str) -> None:
        """End the canary of a name."""
        await self._end(self._registry.clear_canary, name, actor)

    async def clear_shadow(self, name: str, *, actor: str) -> None:
        """End the shadow of a name."""
        await self._end(self._registry.clear_shadow, name, actor)

    async def withdraw(self, name: str, *, actor: str) -> Version:
        """Withdraw a name from traffic: its live version answers by its full ref only."""
        version: Version = await self._end(self._registry.withdraw, name, actor)
        return version

    async def set_pinned(self, name: str, pinned: bool, *, actor: str) -> None:
        """Pin or unpin the live version of a name; one slot of each engine stays free for other adapters."""
        limit = min(engine.loader.slots for engine in self._pool.engines) - 1 if pinned else None
        with translated_errors():
            await CRITICAL.run(self._registry.set_pinned, name, pinned, actor=actor, limit=limit)
            if pinned and (live := self._policy(name).live):
                await self._load(name, live)

    async def retire(self, name: str, number: int, *, actor: str) -> Retired:
        """Drain a version without traffic, unload it, verify that it is gone, and delete its files.

        Call it again when an engine was down or requests were still running: it resumes where it stopped.
        """
        with translated_errors():
            version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
            await self._keep(version)
            if version.state is not State.RETIRED:
                version = await CRITICAL.run(self._registry.retire, name, number, actor=actor)
        engines = await self._pool.unload(version, deadline_s=self._drain_s)
        return Retired(version, engines, await self._delete_files(version))

    async def close(self) -> None:
        """Cancel pending unloads."""
        await self._tasks.cancel()

    def _policy(self, name: str) -> TrafficPolicy:
        return self._registry.snapshot.policies.get(name, TrafficPolicy())

    def _expect(self, name: str, live: int | None) -> None:
        if live not in (None, self._policy(name).live):
            raise ConflictError(f"v{live} is not the live version of {name} any more; look again and retry.")

    def _require_grounds(self, name: str, number: int, judge: Callable[[Dossier], object]) -> None:
        """Check the gate before an engine makes room for the version; the registry checks again within the change."""
        version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
        if version.state is State.READY:
            judge(self._registry.dossier(version))

    def _judge(self, dossier: Dossier, *, actor: str, override: Override | None) -> dict[str, Any]:
        """Return the grounds of a promotion for the audit log: the gate's, and the newest probe."""
        grounds = self._gate.judge(dossier, actor, override)
        if probe := dossier.evidence.get(PROBE_EVIDENCE):
            grounds |= {"probe": probe.document["verdict"], "largest_delta": probe.document["largest_delta"]}
        return grounds

    async def _end(self, end: Callable[..., Any], name: str, actor: str) -> Any:
        before = self._policy(name)
        with translated_errors():
            ended = await CRITICAL.run(end, name, actor=actor)
        self._unload_unrouted(name, before)
        return ended

    async def _load(self, name: str, number: int) -> Version:
        """Load a version if it is READY; otherwise the change itself raises the error."""
        version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
        if version.state is State.READY:
            await self._keep(version)
            await self._pool.load(version)
        return version

    async def _keep(self, version: Version) -> None:
        """Cancel a pending unload of `version`."""
        if unload := self._unloads.get(version.engine_name):
            unload.cancel()
            await asyncio.gather(unload, return_exceptions=True)

    def _unload_unrouted(self, name: str, before: TrafficPolicy) -> None:
        """Unload versions that no route leads to any more."""
        after = self._policy(name)
        routed_before = {*before.routed, *([before.previous] if before.previous else [])}
        for number in routed_before - {*after.routed, after.previous}:
            version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
            if version.engine_name not in self._unloads:
                task = self._unloads[version.engine_name] = self._tasks.start(self._unload_when_idle(version))
                task.add_done_callback(partial(self._forget_unload, version.engine_name))

    def _forget_unload(self, engine_name: str, _task: asyncio.Task[None]) -> None:
        del self._unloads[engine_name]

    async def _unload_when_idle(self, version: Version) -> None:
        """Unload a version once no request runs on it; requests by its full ref are not held up."""
        until_s = time.monotonic() + self._drain_s
        while any(version.engine_name in engine.loader.pins for engine in self._pool.engines):
            if time.monotonic() > until_s:
                return  # in use by its ref; the engine evicts it when it needs the slot
            await asyncio.sleep(_POLL_S)
        try:
            await self._pool.unload(version, deadline_s=0)
        except GatewayError as error:
            log.info("%s stays in the engines for now: %s", version.engine_name, error)

    async def _delete_files(self, version: Version) -> str:
        """Delete the files unless another version or an engine uses them; returns what happened."""
        every_version = (v for versions in self._registry.snapshot.versions.values() for v in versions)
        for other in every_version:
            if other.digest == version.digest and other.state is not State.RETIRED:
                return f"kept: {other.name}@v{other.version} has the same files"
        try:
            with self._pool.file_locks.deleting(version.digest):
                await FILES.run(self._store.delete, version.digest)
        except StoreError as error:
            return f"kept: {error}"
        return "released"
