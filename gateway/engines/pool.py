"""How long prompt and answer can be together, as the engines say.

The engines behind one gateway, and which of them a request goes to.

An engine where the adapter is warm comes first, the least loaded of those; but none gets more than a quarter above its
even share, so one hot adapter spreads over all engines.

Dispatch: a request goes to one engine; to a second one only when the first never accepted it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adapters import Version
from adapters.parity_file import ParityRow
from gateway.engines.adapter_loader import Unloaded
from gateway.engines.client import is_unknown_model
from gateway.engines.effect_probe import ProbeResult, probe_effect
from gateway.engines.engine import Engine, EngineRequest
from gateway.engines.file_locks import AdapterFileLocks
from gateway.engines.http import Connection
from gateway.engines.parity import ParityResult, measure_parity
from gateway.engines.residency import ResidencyReport
from gateway.errors import AdapterGoneError, EngineUnavailableError, EngineUnreachableError, GatewayError

_FRESH_S = 60.0
_ANSWER_S = 5.0


class ContextLength:
    """Asks each engine once a minute at the most: an attached one may come back with another length."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._known: dict[str, tuple[float, int | None]] = {}

    async def tokens(self) -> int | None:
        """The longest context of the engines that serve; None when one of them does not say."""
        longest = 0
        now_s = time.monotonic()
        for engine in self._engines:
            if not engine.is_ready:
                continue
            known_s, length = self._known.get(engine.name, (now_s - _FRESH_S, None))
            if now_s - known_s >= _FRESH_S:
                length = await self._ask(engine, length)
            if length is None:
                return None
            longest = max(longest, length)
        return longest or None

    async def _ask(self, engine: Engine, length: int | None) -> int | None:
        """The length now; what was known last when the engine does not say in time: a request waits for this."""
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                length = await engine.client.context_tokens()
        self._known[engine.name] = (time.monotonic(), length)
        return length


_SPREAD = 1.25


class EnginePool:
    """All engines of this gateway; there is at least one."""

    def __init__(self, engines: Sequence[Engine], leases: AdapterFileLocks, *, base: str) -> None:
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

    def hold(self, version: Version | None, *, avoid: Engine | None = None) -> "PinnedEngine":
        """Choose an engine and keep the version in it for the length of a request; loads it when it is cold."""
        return PinnedEngine(self.choose(version, avoid=avoid), version)

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

    def residents(self) -> dict[str, ResidencyReport | None]:
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


class PinnedEngine:
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


_TRIES = 5


@dataclass(slots=True)
class EngineDispatch:
    """Entering sends the request and gives the answer that begins; leaving closes it and lets go of the engine.

    `trying` is told of each engine before the request goes there.
    """

    pool: EnginePool
    version: Version | None
    post: Callable[[Engine], EngineRequest]
    trying: Callable[[Engine], None]
    engine: Engine | None = None
    _hold: PinnedEngine | None = None
    _posted: EngineRequest | None = None

    async def __aenter__(self) -> tuple[Connection, Engine]:
        try:
            return await self._try_until_loaded(avoid=None)
        except EngineUnreachableError:
            if self.engine is None or len(self.pool.engines) < 2:
                raise
        return await self._try_until_loaded(avoid=self.engine)

    async def _try_until_loaded(self, avoid: Engine | None) -> tuple[Connection, Engine]:
        """An adapter that somebody else takes out of the engine in the last moment is loaded again: it saw nothing."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(AdapterGoneError):
                return await self._try(avoid)
        return await self._try(avoid)

    async def _try(self, avoid: Engine | None) -> tuple[Connection, Engine]:
        self._hold = hold = self.pool.hold(self.version, avoid=avoid)
        self.engine = engine = await hold.__aenter__()
        try:
            self.trying(engine)
            sent_s = time.perf_counter()
            self._posted = posted = self.post(engine)
            connection = await posted.__aenter__()
            if connection.status == 404 and self.version is not None:
                await self._demand_adapter(self.version, engine, posted, connection, sent_s)
            return connection, engine
        except BaseException as error:
            # Not answered: the version that it ran with may be what broke the engine.
            await hold.__aexit__(type(error), error, None)
            raise

    async def _demand_adapter(
        self, version: Version, engine: Engine, posted: EngineRequest, connection: Connection, sent_s: float
    ) -> None:
        """Raise `AdapterGoneError` when the engine does not know the adapter, and have it known as not loaded."""
        try:
            if is_unknown_model(await connection.peek(), version.engine_name):
                await connection.read()
                engine.loader.lost(version, sent_s)
                raise AdapterGoneError
        except BaseException as error:
            await posted.__aexit__(type(error), error, None)
            raise

    async def __aexit__(self, *error: Any) -> None:
        assert self._hold is not None
        assert self._posted is not None
        try:
            await self._posted.__aexit__(*error)
        finally:
            await self._hold.__aexit__(*error)
