"""Supervisor: start one engine, check that it is alive, restart it with backoff, and restore its adapters.

    starting -> ready -> (process exits) -> restarting -> starting …
                 |  ^
                hung -> (still no response) -> restarting -> starting …

A managed engine is restarted with exponential backoff; an attached one is polled. Only ready engines get requests, so a
dead engine means a 503 with a reason, not a hanging connection. The liveness probe asks the engine's core, because
vLLM's `/health` is answered by its HTTP server alone. A busy core answers between two steps, so the probe's timeout is
long.
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
_START_POLL_S = 0.25
_ATTACHED_POLL_S = 1.0
_LIVENESS_PERIOD_S = 5.0
_MAX_BACKOFF_S = 30.0
_FAILURES_TO_MARK_DEAD = 2
_EXIT_TIMEOUT_S = 5.0
"""How long an engine that broke its connections has to exit before it is stopped."""
_READY = "The engine is ready."
_KILLED_FROM_OUTSIDE = frozenset({130, 137, 143})
"""Exit codes after SIGINT, SIGKILL, SIGTERM (128 + number): an operator or the kernel did it, not a request."""


class EngineState(StrEnum):
    """Lifecycle of an engine; only READY ones get requests."""

    STARTING = "starting"
    READY = "ready"
    HUNG = "hung"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class EngineStartError(Exception):
    """A managed engine failed its first start; the message says why and where its log is."""


@dataclass(frozen=True)
class EngineStatus:
    """State of an engine with the reason, for `/ready` and the admin API."""

    state: EngineState
    reason: str
    version: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class EngineTimeouts:
    """Seconds that an engine may take to become healthy (`start_s`) and to answer a liveness probe (`hang_s`)."""

    start_s: float
    hang_s: float


class Supervisor:
    """Runs a managed engine, or polls an attached one.

    `announce` prints a line for the operator at each change of state. `on_death` is called when an engine died and a
    request may be the cause. `read_run` is called before a started engine gets its first request; it returns the run id
    from the engine's counters. `api_key` is the managed engine's key; None generates one for each start.
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
        timeouts: EngineTimeouts,
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
        self._timeouts = timeouts
        self._announce = announce
        self._on_death = on_death
        self._read_run = read_run
        self.run_id: str | None = None
        """Id of the engine's current run, from its counters; None when it exposes none."""
        self._process: EngineProcess | None = None
        self._alive_s = 0.0
        """Time of the last successful liveness probe (`time.monotonic`)."""
        self.status = EngineStatus(EngineState.STARTING, "The engine is starting.")

    @property
    def is_managed(self) -> bool:
        """Whether this gateway started the engine itself."""
        return self._spec is not None

    async def run(self) -> None:
        """Supervise the engine until cancelled.

        Raises `EngineStartError` when a managed engine fails its first start. Later errors are logged, counted and
        retried.
        """
        try:
            await (self._poll_attached() if self._spec is None else self._manage(self._spec))
        finally:
            self._set(EngineState.STOPPED, "The gateway is shutting down.")
            if self._process is not None:
                await self._process.stop()

    async def reconcile(self) -> None:
        """Reconcile the adapters of a ready engine with the registry, if that is due; a periodic task."""
        if self.status.state is EngineState.READY:
            await self._reconciler.reconcile_if_due()

    async def _manage(self, spec: EngineSpec) -> None:
        backoff_s = 0.0
        while True:
            try:
                backoff_s = await self._run_once(spec, backoff_s)
            except EngineStartError:
                raise
            except Exception as error:
                self._log_failure("supervision", error)
                backoff_s = _longer(backoff_s)
                reason = f"The engine is restarted in {backoff_s:g} s after {type(error).__name__} (see the log)."
                self._set(EngineState.RESTARTING, reason, died=True)
                if self._process is not None:
                    await self._process.stop()
            await asyncio.sleep(backoff_s)

    async def _run_once(self, spec: EngineSpec, backoff_s: float) -> float:
        """Run the engine from its start to its exit; returns the seconds to wait before the next start."""
        started = time.monotonic()
        self._metrics.engine_starts.labels(self._name).inc()
        self._process, key = await self._start(spec)
        process = self._process
        if not await self._becomes_healthy(process, key) and not self.status.restarts:
            raise EngineStartError(
                f"The engine did not start: {process.last_error()} (log: {spec.log_path}); fix that, or give a model "
                "that vLLM takes with --model."
            )
        served_s, is_hung = 0.0, False
        if process.exit_code is None and await self._make_ready():
            self._announce(f"engine ready after {time.monotonic() - started:.0f} s")
            ready = time.monotonic()
            is_hung = await self._runs_until_hung(process)
            served_s = time.monotonic() - ready
        died_s = self._alive_s if is_hung else time.monotonic()
        exit_code = None if is_hung else await self._wait_for_exit(process)
        await process.stop()
        backoff_s = 0.0 if served_s > 2 * _MAX_BACKOFF_S else _longer(backoff_s)
        hung_s = time.monotonic() - self._alive_s
        end = f"was hung for {hung_s:.0f} s" if is_hung else f"exited with code {process.exit_code}"
        reason = f"The engine {end} and is restarted in {backoff_s:g} s."
        if exit_code not in _KILLED_FROM_OUTSIDE:
            reason = f"{reason} Last error in its log: {process.last_error()}"
            self._on_death()
            await self._quarantine_loaded_last(reason, died_s)
        self._set(EngineState.RESTARTING, reason, died=True)
        self._announce(f"engine {end}; restarting it in {backoff_s:g} s")
        return backoff_s

    async def _start(self, spec: EngineSpec) -> tuple[EngineProcess, str]:
        """Start the engine's process; returns it with its key, which is sent only once the engine has proved it."""
        key = self._api_key or secrets.token_urlsafe(32)
        self._client.use_key(None)
        try:
            return await EngineProcess.start(spec, key), key
        except OSError as error:
            if self.status.restarts:
                raise
            raise EngineStartError(f"The engine cannot be started ({error}).") from error

    async def _wait_for_exit(self, process: EngineProcess) -> int | None:
        """Return the exit code of an engine that stopped serving; None when it does not exit and has to be stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                return await process.wait()
        return None

    async def _becomes_healthy(self, process: EngineProcess, key: str) -> bool:
        """Poll the health check of a started engine; False when it exits or takes longer than `start_s`."""
        started = time.monotonic()
        next_line_s = 5.0
        while process.exit_code is None and (waited := time.monotonic() - started) < self._timeouts.start_s:
            if await self._client.is_healthy() and await self._client.proves_key(key):
                self._client.use_key(key)
                return True
            if waited >= next_line_s:
                self._announce(f"engine starting, {waited:.0f} s")
                next_line_s += 5.0
            await asyncio.sleep(_START_POLL_S)
        return False

    async def _runs_until_hung(self, process: EngineProcess) -> bool:
        """Probe a ready engine; False once it has exited, True once it has been HUNG for `hang_s`."""
        self._alive_s = time.monotonic()
        hung_since_s: float | None = None
        exited = asyncio.ensure_future(process.wait())
        try:
            while not exited.done():
                if is_alive := await self._answers_probe(exited):
                    self._mark_alive()
                    hung_since_s = None
                elif not exited.done() and (now_s := time.monotonic()) - self._alive_s >= self._timeouts.hang_s:
                    self._mark_hung()
                    hung_since_s = hung_since_s or now_s
                    if now_s - hung_since_s >= self._timeouts.hang_s:
                        return True
                await asyncio.wait((exited,), timeout=_LIVENESS_PERIOD_S if is_alive else _START_POLL_S)
            return False
        finally:
            exited.cancel()

    async def _answers_probe(self, exited: "asyncio.Future[int]") -> bool:
        """Whether the engine answers a liveness probe within `hang_s`, before it exits."""
        probe = asyncio.ensure_future(self._client.is_alive())
        try:
            await asyncio.wait((exited, probe), timeout=self._timeouts.hang_s, return_when=asyncio.FIRST_COMPLETED)
            return probe.done() and probe.result()
        finally:
            probe.cancel()

    def _mark_alive(self) -> None:
        self._alive_s = time.monotonic()
        if self.status.state is EngineState.HUNG:
            self._set(EngineState.READY, _READY)
            self._announce("engine responds again")

    def _mark_hung(self) -> None:
        if self.status.state is EngineState.HUNG:
            return
        hang_s = self._timeouts.hang_s
        then = f"it is restarted after {hang_s:g} s more" if self.is_managed else "it is probed again"
        reason = f"The engine has not responded to a liveness probe for {hang_s:g} s; {then} (hang_timeout_s)."
        self._set(EngineState.HUNG, reason)
        self._announce(f"engine hung: {reason}")

    async def _poll_attached(self) -> None:
        failures = 0
        while True:
            try:
                failures = await self._check_attached(failures)
            except Exception as error:
                self._log_failure("health check", error)
            await asyncio.sleep(_ATTACHED_POLL_S)

    async def _check_attached(self, failures: int) -> int:
        """Check an attached engine once; returns how many checks in a row have failed.

        A slow engine counts as hung after `hang_s`, as a managed one does. Only one that refuses connections or answers
        with an error counts as dead, because its adapters and running requests are then suspected.
        """
        is_ready = self.status.state is EngineState.READY
        health = await self._client.health()
        if health is Health.SLOW and (is_ready or self.status.state is EngineState.HUNG):
            if time.monotonic() - self._alive_s >= self._timeouts.hang_s:
                self._mark_hung()
            return 0
        is_up = health is Health.UP
        if is_up and (not is_ready or time.monotonic() - self._alive_s >= _LIVENESS_PERIOD_S):
            try:
                async with asyncio.timeout(self._timeouts.hang_s):
                    is_up = await self._client.is_alive()
            except TimeoutError:
                self._mark_hung()
                return 0
            self._alive_s = time.monotonic()
        if is_up:
            if not is_ready and await self._make_ready():
                self._announce(f"attached to {self._client.url}")
            return 0
        if failures + 1 >= (_FAILURES_TO_MARK_DEAD if is_ready else 1):
            reason = f"No engine answers at {self._client.url}."
            if is_ready:
                self._on_death()
                await self._quarantine_loaded_last(reason, time.monotonic())
            state = EngineState.RESTARTING if self.status.version else EngineState.STARTING
            self._set(state, reason, died=is_ready)
        return failures + 1

    async def _make_ready(self) -> bool:
        """Read version and run of a started engine and restore its adapters; False when it cannot be used yet."""
        try:
            version = await self._client.version()
            self.run_id = await self._read_run()
            await self._reconciler.restore()
        except GatewayError as error:
            reason = f"The engine cannot be used: {error}"
            if self.status.reason != reason:
                self._announce(f"engine cannot be used: {error}")
            state = self.status.state
            self._set(EngineState.STARTING if state is EngineState.HUNG else state, reason)
            return False
        self._set(EngineState.READY, _READY, version=version)
        return True

    async def _quarantine_loaded_last(self, death: str, died_s: float) -> None:
        """Quarantine the version whose load the death of the engine is attributed to, if there is one."""
        if version := self._loader.load_before_crash(died_s):
            reason = f"The engine died while or right after this version was loaded. {death}"
            await self._reconciler.quarantine(version, reason)
            self._announce(f"adapter {version.engine_name} is quarantined: {reason}")

    def _log_failure(self, activity: str, error: Exception) -> None:
        self._metrics.engine_faults.labels(self._name).inc()
        log.error("%s of %s failed; it is retried", activity, self._name, exc_info=error)

    def _set(self, state: EngineState, reason: str, *, version: str = "", died: bool = False) -> None:
        restarts = self.status.restarts + died
        self.status = EngineStatus(state, reason, version or self.status.version, restarts)
        self._metrics.engine_up.labels(self._name).set(state is EngineState.READY)


def _longer(backoff_s: float) -> float:
    return min(_MAX_BACKOFF_S, 2 * backoff_s + 0.5)
