"""Rollout: which version of a name answers, tries, shadows, stays resident, and leaves for good.

Whatever will take traffic is loaded into the engines before the registry says so; whatever left it keeps answering the
requests that began on it. A version leaves the engines once nothing leads to it any more, not even a rollback; its
files go with it when it is retired.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from adapters import AdapterRef, Dossier, Policy, Registry, State, Store, StoreError, Version
from gateway.background import Group
from gateway.engines.adapter_loader import Unloaded
from gateway.engines.pool import EnginePool
from gateway.errors import ConflictError, GatewayError
from gateway.releases.canary import BOUNDS_EVIDENCE, CanaryLimits
from gateway.releases.errors import translated_errors
from gateway.releases.gate import Override, PromotionGate
from gateway.releases.publish import PROBE_EVIDENCE
from gateway.threads import CRITICAL, FILES

log = logging.getLogger(__name__)
_LOOK_S = 0.25


@dataclass(frozen=True)
class Retired:
    """What retiring a version did: on each engine, and with its files."""

    version: Version
    engines: list[Unloaded]
    files: str


class Rollout:
    """What operators do with versions that are ready; requests may run on one that leaves for `drain_s` more."""

    def __init__(
        self, registry: Registry, store: Store, pool: EnginePool, gate: PromotionGate, leaving: Group, *, drain_s: float
    ) -> None:
        self._registry = registry
        self._store = store
        self._pool = pool
        self._gate = gate
        self._drain_s = drain_s
        self._tasks = leaving
        self._leaving: dict[str, asyncio.Task[None]] = {}

    async def promote(
        self, name: str, number: int, *, expect_live: int | None, actor: str, override: Override | None = None
    ) -> Version:
        """Make a READY version live once its gate opens, resident before any request is sent to it."""
        before = self._policy(name)
        judge = partial(self._judge, actor=actor, override=override)
        with translated_errors():
            await CRITICAL.run(self._demand_grounds, name, number, judge)
            await self._load(name, number)
            version: Version = await self._change(
                self._registry.promote, name, number, actor=actor, expect_live=expect_live, judge=judge
            )
        self._let_go(name, before)
        return version

    async def rollback(self, name: str, *, expect_live: int | None, actor: str) -> Version:
        """Make the version live again that was live before."""
        before = self._policy(name)
        with translated_errors():
            if before.previous is not None:
                await self._load(name, before.previous)
            version: Version = await self._change(self._registry.rollback, name, actor=actor, expect_live=expect_live)
        self._let_go(name, before)
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
        """Send a share of a name's requests to a READY version; it is taken back when it breaks its bounds."""
        before = self._policy(name)
        keep = {BOUNDS_EVIDENCE: asdict(bounds)}
        with translated_errors():
            self._expect(name, expect_live)  # before an engine makes room for it; the registry asks again
            version = await self._load(name, number)
            await self._change(
                self._registry.set_canary, name, number, percent, actor=actor, expect_live=expect_live, keep=keep
            )
        self._let_go(name, before)
        return version

    async def set_shadow(self, name: str, number: int, percent: float, *, actor: str) -> None:
        """Ask a share of a name's requests again of a READY version."""
        before = self._policy(name)
        with translated_errors():
            await self._load(name, number)
            await self._change(self._registry.set_shadow, name, number, percent, actor=actor)
        self._let_go(name, before)

    async def clear_canary(self, name: str, *, actor: str) -> None:
        """All requests of a name go to the live version again."""
        await self._end(self._registry.clear_canary, name, actor)

    async def clear_shadow(self, name: str, *, actor: str) -> None:
        """No request of a name is mirrored any more."""
        await self._end(self._registry.clear_shadow, name, actor)

    async def withdraw(self, name: str, *, actor: str) -> Version:
        """Take a name out of traffic: its live version answers only by its full ref from now on."""
        version: Version = await self._end(self._registry.withdraw, name, actor)
        return version

    async def set_pinned(self, name: str, pinned: bool, *, actor: str) -> None:
        """Keep the live version of a name resident, or no longer; one slot of each engine stays free for the rest."""
        limit = min(engine.loader.slots for engine in self._pool.engines) - 1 if pinned else None
        with translated_errors():
            await self._change(self._registry.set_pinned, name, pinned, actor=actor, limit=limit)
            if pinned and (live := self._policy(name).live):
                await self._load(name, live)

    async def retire(self, name: str, number: int, *, actor: str) -> Retired:
        """Drain a version that takes no traffic, unload it, verify that it is gone, and release its files.

        Can be called again when an engine was away or requests were still running: it goes on where it stopped.
        """
        with translated_errors():
            version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
            await self._stay(version)
            if version.state is not State.RETIRED:
                version = await self._change(self._registry.retire, name, number, actor=actor)
        engines = await self._pool.unload(version, deadline_s=self._drain_s)
        return Retired(version, engines, await self._release(version))

    async def close(self) -> None:
        """Stop waiting for versions to be idle."""
        await self._tasks.cancel()

    def _policy(self, name: str) -> Policy:
        return self._registry.snapshot.policies.get(name, Policy())

    def _expect(self, name: str, live: int | None) -> None:
        if live not in (None, self._policy(name).live):
            raise ConflictError(f"v{live} is not the live version of {name}; look again and retry.")

    def _demand_grounds(self, name: str, number: int, judge: Callable[[Dossier], object]) -> None:
        """Refuse before an engine makes room for the version; the registry asks again in the moment of the change."""
        version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
        if version.state is State.READY:
            judge(self._registry.dossier(version))

    def _judge(self, dossier: Dossier, *, actor: str, override: Override | None) -> dict[str, Any]:
        """What speaks for a promotion, for the audit log: what the gate found, and the newest probe."""
        grounds = self._gate.judge(dossier, actor, override)
        if probe := dossier.evidence.get(PROBE_EVIDENCE):
            grounds |= {"probe": probe.document["verdict"], "largest_delta": probe.document["largest_delta"]}
        return grounds

    async def _change(self, change: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await CRITICAL.run(partial(change, *arguments, **options))

    async def _end(self, end: Callable[..., Any], name: str, actor: str) -> Any:
        before = self._policy(name)
        with translated_errors():
            ended = await self._change(end, name, actor=actor)
        self._let_go(name, before)
        return ended

    async def _load(self, name: str, number: int) -> Version:
        """Make a version resident if it is READY; if it is not, the registry says so in its own words."""
        version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
        if version.state is State.READY:
            await self._stay(version)
            await self._pool.load(version)
        return version

    async def _stay(self, version: Version) -> None:
        """Whatever was decided before, this version does not leave now."""
        if leaving := self._leaving.get(version.engine_name):
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    def _let_go(self, name: str, before: Policy) -> None:
        """Have the versions leave the engines that nothing leads to any more."""
        after = self._policy(name)
        led = {*before.routed, *([before.previous] if before.previous else [])}
        for number in led - {*after.routed, after.previous}:
            version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
            if version.engine_name not in self._leaving:
                task = self._leaving[version.engine_name] = self._tasks.start(self._leave(version))
                task.add_done_callback(partial(self._left, version.engine_name))

    def _left(self, engine_name: str, _task: asyncio.Task[None]) -> None:
        del self._leaving[engine_name]

    async def _leave(self, version: Version) -> None:
        """Unload a version as soon as no request runs on it; who names it by its ref never waits for that."""
        until_s = time.monotonic() + self._drain_s
        while any(version.engine_name in engine.loader.pins for engine in self._pool.engines):
            if time.monotonic() > until_s:
                return  # it is in use by its ref, then; the engine drops it when it needs the room
            await asyncio.sleep(_LOOK_S)
        try:
            await self._pool.unload(version, deadline_s=0)
        except GatewayError as error:
            log.info("%s stays in the engines for now: %s", version.engine_name, error)

    async def _release(self, version: Version) -> str:
        """Give the files back when no engine can want them any more; says what became of them."""
        everyone = (v for versions in self._registry.snapshot.versions.values() for v in versions)
        for other in everyone:
            if other.digest == version.digest and other.state is not State.RETIRED:
                return f"kept: they are also those of {other.name}@v{other.version}"
        try:
            with self._pool.leases.deleting(version.digest):
                await FILES.run(self._store.delete, version.digest)
        except StoreError as error:
            return f"kept: {error}"
        return "released"
