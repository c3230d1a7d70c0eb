"""One vLLM engine with its client, loader, supervisor and circuit breaker, and one request that runs on it."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters import Version
from gateway.engines.adapter_loader import AdapterLoader
from gateway.engines.adapter_reconciler import Reconciler
from gateway.engines.circuit_breaker import Breaker
from gateway.engines.client import EngineClient, is_unknown_model
from gateway.engines.http import EngineConnection
from gateway.engines.residency import ThrashMonitor
from gateway.engines.slot_scheduler import SlotScheduler
from gateway.engines.supervisor import EngineState, Supervisor
from gateway.errors import AdapterGoneError, EngineBrokeOffError, EngineTimeoutError, EngineUnreachableError
from gateway.inference.poison_requests import PoisonRequests, RunningRequest

_PACE_SMOOTHING = 0.1
"""Weight of the latest answer in the moving average of `s_per_token`."""


@dataclass(eq=False)
class Engine:
    """One vLLM process as the pool sees it; `running` counts this gateway's requests on it, waiting ones included."""

    name: str
    client: EngineClient
    loader: AdapterLoader
    reconciler: Reconciler
    thrash: ThrashMonitor
    supervisor: Supervisor
    poison: PoisonRequests
    breaker: Breaker = field(default_factory=Breaker)
    scheduler: SlotScheduler = field(default_factory=SlotScheduler)
    running: int = 0
    s_per_token: float = 0.0
    """Moving average of seconds per generated token, queueing and prefill included; 0 before the first answer."""

    def learn_pace(self, seconds: float, tokens: int) -> None:
        """Add a finished answer to the moving average of `s_per_token`."""
        if tokens:
            latest = seconds / tokens
            self.s_per_token += (latest - self.s_per_token) * (_PACE_SMOOTHING if self.s_per_token else 1)

    @property
    def is_ready(self) -> bool:
        """Whether the engine is up and its adapters are restored."""
        return self.supervisor.status.state is EngineState.READY

    @property
    def run(self) -> str | None:
        """Id of the engine's current run, from its counters; None when it exposes none."""
        return self.supervisor.run_id

    @property
    def known_slots(self) -> int:
        """Adapter slots of the engine; 0 when unknown: an attached engine without our plugin."""
        return self.loader.slots if self.supervisor.is_managed or self.reconciler.residents is not None else 0

    @property
    def is_available(self) -> bool:
        """Whether the engine may get a request now: it is ready and its circuit breaker allows it."""
        return self.is_ready and self.breaker.allows

    async def pin(self, version: Version | None) -> "PinnedEngine":
        """Count one more request, wait for a slot and load the version if it is cold; the base (None) needs neither.

        `PinnedEngine.unpin` must follow once. A failure or cancellation in here undoes all of it.
        """
        self.running += 1
        if version is not None:
            try:
                await self.scheduler.enter(version.engine_name)
                try:
                    await self.loader.pin(version)
                except BaseException:
                    self.scheduler.leave(version.engine_name)
                    raise
            except BaseException:
                self.running -= 1
                raise
        return PinnedEngine(self, version)


class PinnedEngine:
    """An engine with the version of one request pinned: `send` the request, then `unpin` once."""

    __slots__ = ("_connection", "_running", "_version", "engine")

    def __init__(self, engine: Engine, version: Version | None) -> None:
        self.engine = engine
        self._version = version
        self._running: RunningRequest | None = None
        self._connection: EngineConnection | None = None

    async def send(self, path: str, body: bytes, headers: Mapping[str, str], *, fingerprint: int) -> EngineConnection:
        """Send the request; returns once the response headers have arrived.

        Raises `EngineUnreachableError` when the engine never received the request, `AdapterGoneError` when the adapter
        was unloaded after it was pinned, `EngineBrokeOffError`, `EngineTimeoutError`.
        """
        engine, version = self.engine, self._version
        engine.breaker.begin()
        self._running = engine.poison.began(engine.name, fingerprint)
        sent_s = time.perf_counter()
        connection = self._connection = await engine.client.send(path, body, headers)
        connection.on_first_body(engine.breaker.answering)
        if connection.status != 404 or version is None:
            return connection
        if is_unknown_model(await connection.peek(), version.engine_name):
            await connection.read()
            engine.loader.forget(version, sent_s)
            raise AdapterGoneError
        return connection

    def unpin(self, error: BaseException | None) -> None:
        """Release connection, slot and pin; `error` is the request's failure, None when it was answered.

        The connection of a response that was not read to its end is closed, so that the engine aborts it. Circuit
        breaker, poison requests and loader record the outcome: an adapter whose request failed may have crashed the
        engine.
        """
        engine, version = self.engine, self._version
        engine.running -= 1
        with contextlib.ExitStack() as undo:  # runs every step, even when an earlier one raises
            if version is not None:
                undo.callback(engine.scheduler.leave, version.engine_name)
                undo.callback(engine.loader.unpin, version, answered=error is None)
            if self._running is not None:
                undo.callback(self._record, self._running, error)
            if self._connection is not None:
                undo.callback(engine.client.release, self._connection)

    def _record(self, running: RunningRequest, error: BaseException | None) -> None:
        breaker, connection = self.engine.breaker, self._connection
        self.engine.poison.ended(self.engine.name, running, error)
        if isinstance(error, EngineUnreachableError | EngineBrokeOffError) or self._timed_out_idle(error):
            breaker.failed()
        elif error is None or (connection is not None and connection.is_complete):
            breaker.succeeded()
        breaker.abandoned()

    def _timed_out_idle(self, error: BaseException | None) -> bool:
        """Whether a time limit passed without data; a stream that kept sending until its limit was only long."""
        if not isinstance(error, EngineTimeoutError):
            return False
        return error.code == "engine_idle_timeout" or self._connection is None or not self._connection.has_body
