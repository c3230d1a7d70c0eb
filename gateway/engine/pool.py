"""The engines behind one gateway, and which of them a request goes to.

An engine where the adapter is warm comes first, the least loaded of those; but none gets more than a quarter above its
even share, so one hot adapter spreads over all engines.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from adapters import Version
from gateway.engine.engine import Engine
from gateway.errors import EngineUnavailableError

_SPREAD = 1.25


class EnginePool:
    """All engines of this gateway; there is at least one."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = engines

    @property
    def ready(self) -> list[Engine]:
        """The engines that serve."""
        return [engine for engine in self.engines if engine.is_ready]

    def require_ready(self) -> None:
        """Raise `EngineUnavailableError` with the reason unless an engine serves."""
        if not any(engine.is_ready for engine in self.engines):
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

    @contextlib.asynccontextmanager
    async def hold(self, version: Version | None, *, avoid: Engine | None = None) -> AsyncIterator[Engine]:
        """Choose an engine and keep the version in it for the length of a request; loads it when it is cold."""
        engine = self.choose(version, avoid=avoid)
        engine.running += 1
        try:
            if version is None:
                yield engine
            else:
                async with engine.loader.pin(version):
                    yield engine
        finally:
            engine.running -= 1

    async def load(self, version: Version) -> None:
        """Load a version into every engine that serves; raises what the first engine that refuses it says."""
        self.require_ready()
        await asyncio.gather(*(engine.loader.ensure(version) for engine in self.ready))

    def _why(self) -> str:
        if len(self.engines) == 1:
            status = self.engines[0].supervisor.status
            return status.reason if not self.engines[0].is_ready else "The engine broke off several times in a row."
        reasons = [f"{engine.name}: {engine.supervisor.status.reason}" for engine in self.engines]
        return f"None of {len(self.engines)} engines takes requests ({' '.join(reasons)})"
