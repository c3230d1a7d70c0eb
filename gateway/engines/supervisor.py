"""The supervisor: keeps one engine serving and makes the registry's desired state true again after every start.

    starting -> ready -> (engine ends) -> restarting -> starting …
                  |  ^
              hung -> (no sign of life for as long again) -> restarting -> starting …

A managed engine is restarted with growing pauses; an attached one is probed. Requests go to ready engines only, so a
dead engine is a 503 with a reason, not a hanging connection. An engine lives while its core answers: vLLM's health
check is answered by its server alone. A busy core answers between two steps, so it has a long time for it.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from gateway.engines.adapter_loader import AdapterLoader
from gateway.engines.adapter_reconciler import Reconciler
from gateway.engines.client import EngineClient, Health
from gateway.engines.process import EngineProcess, EngineSpec
from gateway.errors import GatewayError
from gateway.metrics import Metrics

log = logging.getLogger(__name__)
_PROBE_S = 0.25
_ATTACHED_PROBE_S = 1.0
_LIFE_PROBE_S = 5.0
_MAX_PAUSE_S = 30.0
_PROBES_TO_GIVE_UP = 2
_LAST_BREATH_S = 5.0
# Ended by an operator or the kernel (128 + SIGINT, SIGKILL, SIGTERM): no request is to blame for that.
_KILLED_FROM_OUTSIDE = frozenset({130, 137, 143})


class EngineState(StrEnum):
    """Where the engine stands."""

    STARTING = "starting"
    READY = "ready"
    HUNG = "hung"
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


@dataclass(frozen=True)
class Patience:
    """Seconds an engine may take: to become healthy, and to give a sign of life before it counts as hung."""

    start_s: float
    hang_s: float


class Supervisor:
    """Runs a managed engine, or watches an attached one.

    `announce` prints a line for the operator at each change. `on_death` is called when an engine died and a request may
    be the reason. `read_run` is called before a started engine gets its first request, and returns the id of its run by
    its own counters. A managed engine requires `api_key`; None makes a new key for each start.
    """

    def __init__(
        self,
        *,
        name: str,
        client: EngineClient,
        loader: AdapterLoader,
        reconciler: Reconciler,
        metrics: Metrics,
        spec: EngineSpec | None,
        api_key: str | None,
        patience: Patience,
        announce: Callable[[str], None],
        on_death: Callable[[], None],
        read_run: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._name = name
        self._client = client
        self._loader = loader
        self._reconciler = reconciler
        self._metrics = metrics
        self._spec = spec
        self._api_key = api_key
        self._patience = patience
        self._announce = announce
        self._on_death = on_death
        self._read_run = read_run
        self.run_id: str | None = None
        """Id of the engine's present run by its counters; None when it exposes none."""
        self._process: EngineProcess | None = None
        self._alive_s = 0.0
        """When the engine last gave a sign of life, on `time.monotonic`."""
        self.status = EngineStatus(EngineState.STARTING, "The engine is starting.")

    @property
    def is_managed(self) -> bool:
        """Whether this gateway started the engine itself."""
        return self._spec is not None

    async def run(self) -> None:
        """Supervise until cancelled; raises `EngineStartError` when a managed engine fails its very first start, and
        nothing else: whatever goes wrong later is logged, counted and tried again.
        """
        try:
            await (self._watch() if self._spec is None else self._manage(self._spec))
        finally:
            self._set(EngineState.STOPPED, "The gateway is shutting down.")
            if self._process is not None:
                await self._process.stop()

    async def _manage(self, spec: EngineSpec) -> None:
        pause_s = 0.0
        while True:
            try:
                pause_s = await self._serve(spec, pause_s)
            except EngineStartError:
                raise
            except Exception as error:
                self._failed("the supervision", error)
                pause_s = _longer(pause_s)
                why = f"The engine is started again after {pause_s:g} s ({type(error).__name__}; the log has more)."
                self._set(EngineState.RESTARTING, why, died=True)
                if self._process is not None:
                    await self._process.stop()
            await asyncio.sleep(pause_s)

    async def _serve(self, spec: EngineSpec, pause_s: float) -> float:
        """One run of the engine, from its start to its end; returns how long to rest before the next."""
        started = time.monotonic()
        self._metrics.engine_starts.labels(self._name).inc()
        self._process, key = await self._start(spec)
        process = self._process
        if not await self._becomes_healthy(process, key) and not self.status.restarts:
            raise EngineStartError(
                f"The engine did not start: {process.last_error()} (log: {spec.log_path}); mend that, or give a model "
                "that vLLM takes with --model."
            )
        served_s, is_hung = 0.0, False
        if process.exit_code is None and await self._make_ready():
            self._announce(f"engine ready after {time.monotonic() - started:.0f} s")
            ready = time.monotonic()
            is_hung = await self._stays_until_hung(process)
            served_s = time.monotonic() - ready
        died_s = self._alive_s if is_hung else time.monotonic()
        ended = None if is_hung else await self._ends_by_itself(process)
        await process.stop()
        pause_s = 0.0 if served_s > 2 * _MAX_PAUSE_S else _longer(pause_s)
        what = (
            f"stood still for {time.monotonic() - self._alive_s:.0f} s"
            if is_hung
            else f"ended with code {process.exit_code}"
        )
        why = f"The engine {what} and is started again after {pause_s:g} s."
        if ended not in _KILLED_FROM_OUTSIDE:
            why = f"{why} Its log ends: {process.last_error()}"
            self._on_death()
            await self._blame(why, died_s)
        self._set(EngineState.RESTARTING, why, died=True)
        self._announce(f"engine {what}; starting it again after {pause_s:g} s")
        return pause_s

    async def _start(self, spec: EngineSpec) -> tuple[EngineProcess, str]:
        """The engine's process, and the key that it will demand; nobody is told that before it proved to know it."""
        key = self._api_key or secrets.token_urlsafe(32)
        self._client.use_key(None)
        try:
            return await EngineProcess.start(spec, key), key
        except OSError as error:
            if self.status.restarts:
                raise
            raise EngineStartError(f"The engine cannot be started ({error}).") from error

    async def _ends_by_itself(self, process: EngineProcess) -> int | None:
        """The exit code of an engine that broke off, once it has ended; None when it has to be stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_BREATH_S):
                return await process.wait()
        return None

    async def _becomes_healthy(self, process: EngineProcess, key: str) -> bool:
        started = time.monotonic()
        next_line_s = 5.0
        while process.exit_code is None and (waited := time.monotonic() - started) < self._patience.start_s:
            if await self._client.is_healthy() and await self._client.knows(key):
                self._client.use_key(key)
                return True
            if waited >= next_line_s:
                self._announce(f"engine starting, {waited:.0f} s")
                next_line_s += 5.0
            await asyncio.sleep(_PROBE_S)
        return False

    async def _stays_until_hung(self, process: EngineProcess) -> bool:
        """False once the engine has ended; True once it has been hung for as long again as it took to be called so."""
        self._alive_s = time.monotonic()
        hung_s: float | None = None
        ended = asyncio.ensure_future(process.wait())
        try:
            while not ended.done():
                if is_alive := await self._gives_a_sign(ended):
                    self._lives()
                    hung_s = None
                elif not ended.done() and (now_s := time.monotonic()) - self._alive_s >= self._patience.hang_s:
                    self._hangs()
                    hung_s = hung_s or now_s
                    if now_s - hung_s >= self._patience.hang_s:
                        return True
                await asyncio.wait((ended,), timeout=_LIFE_PROBE_S if is_alive else _PROBE_S)
            return False
        finally:
            ended.cancel()

    async def _gives_a_sign(self, ended: "asyncio.Future[int]") -> bool:
        """Whether a sign of life comes in time, and before the engine's end."""
        probe = asyncio.ensure_future(self._client.is_alive())
        try:
            await asyncio.wait((ended, probe), timeout=self._patience.hang_s, return_when=asyncio.FIRST_COMPLETED)
            return probe.done() and probe.result()
        finally:
            probe.cancel()

    def _lives(self) -> None:
        self._alive_s = time.monotonic()
        if self.status.state is EngineState.HUNG:
            self._set(EngineState.READY, "The engine serves.")
            self._announce("engine moves again")

    def _hangs(self) -> None:
        if self.status.state is EngineState.HUNG:
            return
        fate = f"it is restarted after {self._patience.hang_s:g} s more" if self.is_managed else "it is asked again"
        why = f"The engine has given no sign of life for {self._patience.hang_s:g} s; {fate} (hang_timeout_s)."
        self._set(EngineState.HUNG, why)
        self._announce(f"engine hangs: {why}")

    async def _watch(self) -> None:
        failures = 0
        while True:
            try:
                failures = await self._look(failures)
            except Exception as error:
                self._failed("the watch", error)
            await asyncio.sleep(_ATTACHED_PROBE_S)

    async def _look(self, failures: int) -> int:
        """Probe an attached engine once; returns how often in a row nothing answered.

        An engine that is slow to answer has as long as a managed one before it counts as hung. Only one that refuses
        connections or answers with an error is taken for dead, because its adapters and requests pay for that.
        """
        is_ready = self.status.state is EngineState.READY
        health = await self._client.health()
        if health is Health.SLOW and (is_ready or self.status.state is EngineState.HUNG):
            if time.monotonic() - self._alive_s >= self._patience.hang_s:
                self._hangs()
            return 0
        is_up = health is Health.UP
        if is_up and (not is_ready or time.monotonic() - self._alive_s >= _LIFE_PROBE_S):
            try:
                async with asyncio.timeout(self._patience.hang_s):
                    is_up = await self._client.is_alive()
            except TimeoutError:
                self._hangs()
                return 0
            self._alive_s = time.monotonic()
        if is_up:
            if not is_ready and await self._make_ready():
                self._announce(f"attached to {self._client.url}")
            return 0
        if failures + 1 >= (_PROBES_TO_GIVE_UP if is_ready else 1):
            why = f"No engine answers at {self._client.url}."
            if is_ready:
                self._on_death()
                await self._blame(why, time.monotonic())
            state = EngineState.RESTARTING if self.status.version else EngineState.STARTING
            self._set(state, why, died=is_ready)
        return failures + 1

    async def _make_ready(self) -> bool:
        """Make true what the registry wants; False when the engine died meanwhile."""
        try:
            version = await self._client.version()
            self.run_id = await self._read_run()
            await self._reconciler.restore()
        except GatewayError as error:
            why = f"The engine cannot be used: {error}"
            if self.status.reason != why:
                self._announce(f"engine not usable: {error}")
            state = self.status.state
            self._set(EngineState.STARTING if state is EngineState.HUNG else state, why)
            return False
        self._set(EngineState.READY, "The engine serves.", version=version)
        return True

    async def reconcile(self) -> None:
        """Reconcile the adapters of a ready engine with the registry, if that is due; a periodic task."""
        if self.status.state is EngineState.READY:
            await self._reconciler.reconcile_if_due()

    async def _blame(self, why: str, died_s: float) -> None:
        """Quarantine the version whose load was the last thing that happened to an engine that died."""
        if version := self._loader.blamed(died_s):
            reason = f"The engine died while or right after this version was loaded. {why}"
            await self._reconciler.quarantine(version, reason)
            self._announce(f"adapter {version.engine_name} is quarantined: {reason}")

    def _failed(self, what: str, error: Exception) -> None:
        self._metrics.engine_faults.labels(self._name).inc()
        log.error("%s of %s failed and goes on", what, self._name, exc_info=error)

    def _set(self, state: EngineState, reason: str, *, version: str = "", died: bool = False) -> None:
        restarts = self.status.restarts + died
        self.status = EngineStatus(state, reason, version or self.status.version, restarts)
        self._metrics.engine_up.labels(self._name).set(state is EngineState.READY)


def _longer(pause_s: float) -> float:
    return min(_MAX_PAUSE_S, 2 * pause_s + 0.5)
