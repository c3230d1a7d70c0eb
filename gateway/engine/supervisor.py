"""The supervisor: keeps one engine serving and makes the registry's desired state true again after every start.

    starting -> ready -> (engine ends) -> restarting -> starting …

A managed engine is restarted with growing pauses; an attached one is probed. Requests go to ready engines only, so a
dead engine is a 503 with a reason, not a hanging connection.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from adapters import Registry, State
from gateway.engine.client import EngineClient
from gateway.engine.loader import AdapterLoader
from gateway.engine.process import EngineProcess, EngineSpec
from gateway.errors import GatewayError
from gateway.metrics import Metrics

_PROBE_S = 0.25
_ATTACHED_PROBE_S = 1.0
_MAX_PAUSE_S = 30.0
_PROBES_TO_GIVE_UP = 2
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
        registry: Registry,
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
        self._registry = registry
        self._metrics = metrics
        self._spec = spec
        self._start_timeout_s = start_timeout_s
        self._announce = announce
        self._died = died
        self._process: EngineProcess | None = None
        self.status = EngineStatus(EngineState.STARTING, "The engine is starting.")

    @property
    def is_managed(self) -> bool:
        """Whether this gateway started the engine itself."""
        return self._spec is not None

    @property
    def shields(self) -> tuple[str, ...]:
        """Names of the defects that our plugin mends in the engine; none in one that we did not start."""
        return self._spec.shields if self._spec else ()

    async def run(self) -> None:
        """Supervise until cancelled; raises `EngineStartError` when a managed engine fails its very first start."""
        try:
            await (self._watch() if self._spec is None else self._manage(self._spec))
        finally:
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
            if process.exit_code is None and await self._make_ready():
                self._announce(f"engine ready after {time.monotonic() - started:.0f} s")
                await process.wait()
            await process.stop()
            code = process.exit_code
            if code not in _KILLED_FROM_OUTSIDE:
                self._died()
            self._set(EngineState.RESTARTING, f"The engine ended with code {code} and is being restarted.", died=True)
            self._announce(f"engine ended with code {code}; restarting (log: {spec.log_path})")
            pause_s = 0.0 if time.monotonic() - started > 2 * _MAX_PAUSE_S else min(_MAX_PAUSE_S, 2 * pause_s + 0.5)
            await asyncio.sleep(pause_s)

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
                state = EngineState.RESTARTING if self.status.version else EngineState.STARTING
                self._set(state, f"No engine answers at {self._client.url}.", died=is_ready)
            await asyncio.sleep(_ATTACHED_PROBE_S)

    async def _make_ready(self) -> bool:
        """Load what is live; False when the engine died meanwhile."""
        try:
            version = await self._client.version()
            failures = await self._loader.restore(self._registry.snapshot.live_versions())
        except GatewayError as error:
            self._announce(f"engine not usable: {error}")
            return False
        for adapter, refusal in failures:
            self._announce(f"adapter {adapter.engine_name} could not be loaded: {refusal}")
            quarantine = partial(self._registry.set_state, adapter, State.QUARANTINED, str(refusal), actor="gateway")
            await asyncio.to_thread(quarantine)
        self._set(EngineState.READY, "The engine serves.", version=version)
        return True

    def _set(self, state: EngineState, reason: str, *, version: str = "", died: bool = False) -> None:
        restarts = self.status.restarts + died
        self.status = EngineStatus(state, reason, version or self.status.version, restarts)
        self._metrics.engine_up.labels(self._name).set(state is EngineState.READY)
