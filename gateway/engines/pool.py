"""Engine pool: choose the engine for a request; load, unload, probe and measure adapters on all of them.

An engine where the adapter is warm comes first, the least loaded of those. None gets more than a quarter above its even
share, so one hot adapter spreads over all engines.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from adapters import Version
from adapters.parity_file import ParityRow
from gateway.engines.adapter_loader import Unloaded
from gateway.engines.effect_probe import ProbeResult, probe_effect
from gateway.engines.engine import Engine
from gateway.engines.file_locks import AdapterFileLocks
from gateway.engines.parity import ParityResult, measure_parity
from gateway.engines.residency import ResidencyReport
from gateway.errors import EngineUnavailableError, GatewayError

_CONTEXT_LENGTH_TTL_S = 60.0
_CONTEXT_LENGTH_TIMEOUT_S = 5.0
_MAX_OVER_SHARE = 1.25


class ContextLength:
    """Cache the engines' context length for a minute: an attached engine may come back with another one."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._cached: dict[str, tuple[float, int | None]] = {}

    async def tokens(self) -> int | None:
        """Return the longest context length of the ready engines in tokens; None when one does not report its own."""
        longest = 0
        now_s = time.monotonic()
        for engine in self._engines:
            if not engine.is_ready:
                continue
            cached_s, length = self._cached.get(engine.name, (now_s - _CONTEXT_LENGTH_TTL_S, None))
            if now_s - cached_s >= _CONTEXT_LENGTH_TTL_S:
                length = await self._ask(engine, length)
            if length is None:
                return None
            longest = max(longest, length)
        return longest or None

    async def _ask(self, engine: Engine, length: int | None) -> int | None:
        """Ask an engine; keep the last `length` when it does not answer in time, because a request waits for this."""
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(_CONTEXT_LENGTH_TIMEOUT_S):
                length = await engine.client.context_tokens()
        self._cached[engine.name] = (time.monotonic(), length)
        return length


class EnginePool:
    """All engines of this gateway; there is at least one."""

    def __init__(self, engines: Sequence[Engine], file_locks: AdapterFileLocks, *, base: str) -> None:
        self.engines = engines
        self.file_locks = file_locks
        self._base = base

    @property
    def ready(self) -> list[Engine]:
        """The engines that are up with their adapters restored."""
        return [engine for engine in self.engines if engine.is_ready]

    def require_ready(self) -> None:
        """Raise `EngineUnavailableError` with the reason unless an engine takes requests."""
        if not any(engine.is_available for engine in self.engines):
            raise EngineUnavailableError(self._unavailable_reason())

    def choose(self, version: Version | None, *, avoid: Engine | None = None) -> Engine:
        """Return the engine for the next request; raises `EngineUnavailableError` when none takes one."""
        available = [engine for engine in self.engines if engine is not avoid and engine.is_available]
        if len(available) < 2:
            if available:
                return available[0]
            raise EngineUnavailableError(self._unavailable_reason())
        share = (sum(engine.running for engine in available) + 1) / len(available)
        within = [engine for engine in available if engine.running < _MAX_OVER_SHARE * share]
        warm = [engine for engine in within if engine.loader.is_warm(version)]
        return min(warm or within, key=lambda engine: (engine.running, len(engine.loader.warm)))

    @contextlib.asynccontextmanager
    async def pinned(self, version: Version | None) -> AsyncIterator[Engine]:
        """Yield the engine for a version, pinned there while the context is open; loads it when it is cold."""
        pinned = await self.choose(version).pin(version)
        error: BaseException | None = None
        try:
            yield pinned.engine
        except BaseException as raised:
            error = raised
            raise
        finally:
            pinned.unpin(error)

    async def load(self, version: Version) -> None:
        """Load a version into every ready engine; raises the error of the first engine that refuses it."""
        if not (ready := self.ready):
            raise EngineUnavailableError(self._unavailable_reason())
        await asyncio.gather(*(engine.loader.ensure(version) for engine in ready))

    async def probe(self, version: Version) -> ProbeResult:
        """Probe whether a version changes the base's answers, on the engine that a request for it would go to."""
        async with self.pinned(version) as engine:
            return await probe_effect(engine.client.complete, self._base, version.engine_name)

    async def parity(self, version: Version, rows: Sequence[ParityRow]) -> ParityResult | None:
        """Compare an engine's log-probabilities with the trainer's `rows`; None when they cannot be compared."""
        async with self.pinned(version) as engine:
            return await measure_parity(engine.client.complete, self._base, version.engine_name, rows)

    async def unload(self, version: Version, *, deadline_s: float) -> list[Unloaded]:
        """Unload a version from every ready engine once its running requests have ended, or after `deadline_s`.

        Route no more requests to it before: a request that still comes loads it again.
        """
        return list(await asyncio.gather(*(e.loader.unload(version, deadline_s=deadline_s) for e in self.ready)))

    @property
    def max_lora_rank(self) -> int | None:
        """The highest LoRA rank that every engine with our plugin takes; None while none has reported it."""
        reported = [report.max_lora_rank for report in self.residents().values() if report is not None]
        return min(reported, default=None)

    def residents(self) -> dict[str, ResidencyReport | None]:
        """Return the last residency report of each engine by name; None for an engine without our plugin."""
        return {engine.name: engine.reconciler.residents for engine in self.engines}

    def _unavailable_reason(self) -> str:
        if len(self.engines) == 1:
            return _reason(self.engines[0])
        reasons = [f"{engine.name}: {_reason(engine)}" for engine in self.engines]
        return f"None of {len(self.engines)} engines takes requests ({' '.join(reasons)})"


def _reason(engine: Engine) -> str:
    if engine.is_ready and not engine.breaker.allows:
        return "The circuit breaker is open: the engine broke off or did not answer several requests in a row."
    return engine.supervisor.status.reason
