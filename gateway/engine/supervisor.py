"""The supervisor: keeps one engine serving and makes the registry's desired state true again after every start.

    starting -> ready -> (engine ends) -> restarting -> starting …

A managed engine is restarted with growing pauses; an attached one is probed. Requests go to ready engines only, so a
dead engine is a 503 with a reason, not a hanging connection.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from gateway.engine.client import EngineClient
from gateway.engine.loader import AdapterLoader
from gateway.engine.process import EngineProcess, EngineSpec
from gateway.engine.reconciler import Reconciler
from gateway.errors import GatewayError
from gateway.metrics import Metrics

_PROBE_S = 0.25
_ATTACHED_PROBE_S = 1.0
_MAX_PAUSE_S = 30.0
_PROBES_TO_GIVE_UP = 2
_LAST_BREATH_S = 5.0
# Ended by an operator or the kernel (128 + SIGINT, SIGKILL, SIGTERM): no request is to blame for that.
_KILLED_FROM_OUTSIDE = frozenset({130, 137, 143})


class EngineState(StrEnum):
    """Where the engine stands."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class EngineStartError(Exception):
    """The engine never became healthy; the message says why and where its log is."""


@dataclass(frozen=True)
class EngineStatus:
    """State with its reason, for `/ready` and the admin surface."""

    state: EngineState
    reason: str
    version: str = ""
    restarts: int = 0


class Supervisor:
    """Runs or watches one engine; `announce` receives a line per change for the operator, `died` is called when the
    engine ended for a reason that may lie in a request.
    """

    def __init__(
        self,
        name: str,
        client: EngineClient,
        loader: AdapterLoader,
        reconciler: Reconciler,
        metrics: Metrics,
        *,
        spec: EngineSpec | None,
        start_timeout_s: float,
        announce: Callable[[str], None],
        died: Callable[[], None],
    ) -> None:
        self._name = name
        self._client = client
        self._loader = loader
        self._reconciler = reconciler
        self._metrics = metrics
        self._spec = spec
        self._start_timeout_s = start_timeout_s
        self._announce = announce
        self._died = died
        self.came_up: Callable[[], Awaitable[str | None]] | None = None
        """Called before the engine gets any request; says what its run is called from now on."""
        self.run_id: str | None = None
        """What the engine's present run is called, by its counters; None when it tells none."""
        self._process: EngineProcess | None = None
        self.status = EngineStatus(EngineState.STARTING, "The engine is starting.")

    @property
    def is_managed(self) -> bool:
        """Whether this gateway started the engine itself."""
        return self._spec is not None

    async def run(self) -> None:
        """Supervise until cancelled; raises `EngineStartError` when a managed engine fails its very first start."""
        reconciling = asyncio.create_task(self._reconcile())
        try:
            await (self._watch() if self._spec is None else self._manage(self._spec))
        finally:
            reconciling.cancel()
            self._set(EngineState.STOPPED, "The gateway is shutting down.")
            if self._process is not None:
                await self._process.stop()

    async def _manage(self, spec: EngineSpec) -> None:
        pause_s = 0.0
        while True:
            started = time.monotonic()
            self._metrics.engine_starts.labels(self._name).inc()
            self._process = process = await EngineProcess.start(spec)
            if not await self._becomes_healthy(process) and not self.status.restarts:
                raise EngineStartError(f"The engine did not start: {process.last_error()} (log: {spec.log_path}).")
            served_s = 0.0
            if process.exit_code is None and await self._make_ready():
                self._announce(f"engine ready after {time.monotonic() - started:.0f} s")
                ready = time.monotonic()
                await process.wait()
                served_s = time.monotonic() - ready
            ended = await self._ends_by_itself(process)
            await process.stop()
            code = process.exit_code
            pause_s = 0.0 if served_s > 2 * _MAX_PAUSE_S else min(_MAX_PAUSE_S, 2 * pause_s + 0.5)
            why = f"The engine ended with code {code} and is started again after {pause_s:g} s."
            if ended not in _KILLED_FROM_OUTSIDE:
                why = f"{why} Its log ends: {process.last_error()}"
                self._died()
                await self._blame(why)
            self._set(EngineState.RESTARTING, why, died=True)
            self._announce(f"engine ended with code {code}; starting it again after {pause_s:g} s")
            await asyncio.sleep(pause_s)

    async def _ends_by_itself(self, process: EngineProcess) -> int | None:
        """The exit code of an engine that broke off, once it has ended; None when it has to be stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_BREATH_S):
                return await process.wait()
        return None

    async def _becomes_healthy(self, process: EngineProcess) -> bool:
        started = time.monotonic()
        next_line_s = 5.0
        while process.exit_code is None and (waited := time.monotonic() - started) < self._start_timeout_s:
            if await self._client.is_healthy():
                return True
            if waited >= next_line_s:
                self._announce(f"engine starting, {waited:.0f} s")
                next_line_s += 5.0
            await asyncio.sleep(_PROBE_S)
        return False

    async def _watch(self) -> None:
        failures = 0
        while True:
            failures = 0 if await self._client.is_healthy() else failures + 1
            is_ready = self.status.state is EngineState.READY
            if not failures and not is_ready and await self._make_ready():
                self._announce(f"attached to {self._client.url}")
            elif failures >= (_PROBES_TO_GIVE_UP if is_ready else 1):
                if is_ready:
                    self._died()
                    await self._blame(f"No engine answers at {self._client.url}.")
                state = EngineState.RESTARTING if self.status.version else EngineState.STARTING
                self._set(state, f"No engine answers at {self._client.url}.", died=is_ready)
            await asyncio.sleep(_ATTACHED_PROBE_S)

    async def _make_ready(self) -> bool:
        """Make true what the registry wants; False when the engine died meanwhile."""
        try:
            version = await self._client.version()
            self.run_id = None if self.came_up is None else await self.came_up()
            await self._reconciler.restore()
        except GatewayError as error:
            self._announce(f"engine not usable: {error}")
            return False
        self._set(EngineState.READY, "The engine serves.", version=version)
        return True

    async def _reconcile(self) -> None:
        while True:
            if self.status.state is EngineState.READY:
                await self._reconciler.run(lambda: self.status.state is EngineState.READY)
            await asyncio.sleep(_PROBE_S)

    async def _blame(self, why: str) -> None:
        """Quarantine the version whose load was the last thing that happened to an engine that died."""
        if version := self._loader.blamed():
            reason = f"The engine died while or right after this version was loaded. {why}"
            await self._reconciler.quarantine(version, reason)
            self._announce(f"adapter {version.engine_name} is quarantined: {reason}")

    def _set(self, state: EngineState, reason: str, *, version: str = "", died: bool = False) -> None:
        restarts = self.status.restarts + died
        self.status = EngineStatus(state, reason, version or self.status.version, restarts)
        self._metrics.engine_up.labels(self._name).set(state is EngineState.READY)
