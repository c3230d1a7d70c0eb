"""The engines behind one gateway, and which of them a request goes to.

An engine where the adapter is warm comes first, the least loaded of those; but none gets more than a quarter above its
even share, so one hot adapter spreads over all engines.
"""

import asyncio
from collections.abc import Sequence

from adapters import Version
from adapters.parity_file import ParityRow
from gateway.engine.engine import Engine
from gateway.engine.leases import Leases
from gateway.engine.parity import measure_parity
from gateway.engine.parity_verdict import ParityResult
from gateway.engine.probe import ProbeResult, probe_effect
from gateway.engine.residents import Residents
from gateway.engine.unloaded import Unloaded
from gateway.errors import EngineUnavailableError

_SPREAD = 1.25


class EnginePool:
    """All engines of this gateway; there is at least one."""

    def __init__(self, engines: Sequence[Engine], leases: Leases, *, base: str) -> None:
        self.engines = engines
        self.leases = leases
        self._base = base

    @property
    def ready(self) -> list[Engine]:
        """The engines that serve."""
        return [engine for engine in self.engines if engine.is_ready]

    def require_ready(self) -> None:
        """Raise `EngineUnavailableError` with the reason unless an engine takes requests."""
        if not any(engine.is_available for engine in self.engines):
            raise EngineUnavailableError(self._why())

    def choose(self, version: Version | None, *, avoid: Engine | None = None) -> Engine:
        """The engine for the next request; raises `EngineUnavailableError` when none takes one."""
        available = [engine for engine in self.engines if engine is not avoid and engine.is_available]
        if len(available) < 2:
            if available:
                return available[0]
            raise EngineUnavailableError(self._why())
        share = (sum(engine.running for engine in available) + 1) / len(available)
        within = [engine for engine in available if engine.running < _SPREAD * share]
        warm = [engine for engine in within if engine.loader.is_warm(version)]
        return min(warm or within, key=lambda engine: (engine.running, len(engine.loader.warm)))

    def hold(self, version: Version | None, *, avoid: Engine | None = None) -> "Hold":
        """Choose an engine and keep the version in it for the length of a request; loads it when it is cold."""
        return Hold(self.choose(version, avoid=avoid), version)

    async def load(self, version: Version) -> None:
        """Load a version into every engine that serves; raises what the first engine that refuses it says."""
        if not (ready := self.ready):
            raise EngineUnavailableError(self._why())
        await asyncio.gather(*(engine.loader.ensure(version) for engine in ready))

    async def probe(self, version: Version) -> ProbeResult:
        """Whether a version changes the base's answers, on the engine that a request for it would go to."""
        async with self.hold(version) as engine:
            return await probe_effect(engine.client.complete, self._base, version.engine_name)

    async def parity(self, version: Version, rows: Sequence[ParityRow]) -> ParityResult | None:
        """Whether an engine says about the trainer's rows what the trainer said; None when there is no telling."""
        async with self.hold(version) as engine:
            return await measure_parity(engine.client.complete, self._base, version.engine_name, rows)

    async def unload(self, version: Version, *, deadline_s: float) -> list[Unloaded]:
        """Take a version out of every engine, after its running requests; says for each engine how that went.

        Route no more requests to it before: those that come are served, by loading it again.
        """
        return list(await asyncio.gather(*(e.loader.unload(version, deadline_s=deadline_s) for e in self.ready)))

    @property
    def max_lora_rank(self) -> int | None:
        """The highest rank that every engine takes, as those with our plugin tell; None while none has told."""
        told = [found.max_lora_rank for found in self.residents().values() if found is not None]
        return min(told, default=None)

    def residents(self) -> dict[str, Residents | None]:
        """By engine, what its adapters were when last looked; None without our plugin."""
        return {engine.name: engine.reconciler.residents for engine in self.engines}

    def _why(self) -> str:
        if len(self.engines) == 1:
            return _why_not(self.engines[0])
        reasons = [f"{engine.name}: {_why_not(engine)}" for engine in self.engines]
        return f"None of {len(self.engines)} engines takes requests ({' '.join(reasons)})"


def _why_not(engine: Engine) -> str:
    if engine.is_ready and not engine.breaker.allows:
        return "The engine broke off or stayed mute several times in a row."
    return engine.supervisor.status.reason


class Hold:
    """An engine with one request more, and with the request's version in it."""

    __slots__ = ("_engine", "_version")

    def __init__(self, engine: Engine, version: Version | None) -> None:
        self._engine = engine
        self._version = version

    async def __aenter__(self) -> Engine:
        self._engine.running += 1
        if self._version is not None:
            try:
                await self._take(self._version)
            except BaseException:
                self._engine.running -= 1
                raise
        return self._engine

    async def _take(self, version: Version) -> None:
        await self._engine.turns.enter(version.engine_name)
        try:
            await self._engine.loader.hold(version)
        except BaseException:
            self._engine.turns.leave(version.engine_name)
            raise

    async def __aexit__(self, kind: object, *_: object) -> None:
        self._engine.running -= 1
        if self._version is not None:
            self._engine.loader.release(self._version, answered=kind is None)
            self._engine.turns.leave(self._version.engine_name)
