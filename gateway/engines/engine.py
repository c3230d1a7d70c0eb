"""One engine with everything that belongs to it: client, loader, supervisor, circuit, and what runs on it now."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.engines.adapter_loader import AdapterLoader
from gateway.engines.adapter_reconciler import Reconciler
from gateway.engines.circuit_breaker import Breaker
from gateway.engines.client import EngineClient
from gateway.engines.http import Connection, Request
from gateway.engines.residency import ThrashMonitor
from gateway.engines.slot_scheduler import SlotScheduler
from gateway.engines.supervisor import EngineState, Supervisor
from gateway.errors import EngineBrokeOffError, EngineTimeoutError, EngineUnreachableError, reason_of
from gateway.inference.poison_requests import PoisonRequests, RunningRequest

_NEWEST = 0.1  # weight of the newest answer in a running mean


@dataclass(eq=False)
class Engine:
    """One vLLM process as the pool sees it; `running` counts our requests on it, waiting ones included."""

    name: str
    client: EngineClient
    loader: AdapterLoader
    reconciler: Reconciler
    thrash: ThrashMonitor
    supervisor: Supervisor
    suspects: PoisonRequests
    breaker: Breaker = field(default_factory=Breaker)
    turns: SlotScheduler = field(default_factory=SlotScheduler)
    running: int = 0
    s_per_token: float = 0.0
    """How long a generated token lately took, waiting and prompt included; 0 until an answer was seen."""

    def learn_pace(self, seconds: float, tokens: int) -> None:
        """Take a finished answer into the running mean of `s_per_token`."""
        if tokens:
            newest = seconds / tokens
            self.s_per_token += (newest - self.s_per_token) * (_NEWEST if self.s_per_token else 1)

    @property
    def is_ready(self) -> bool:
        """Whether the engine is up with everything live loaded."""
        return self.supervisor.status.state is EngineState.READY

    @property
    def run(self) -> str | None:
        """Which run of the engine this is, by its counters' own account; None when it tells none."""
        return self.supervisor.run_id

    @property
    def known_slots(self) -> int:
        """Adapters that may run at a time; 0 for an engine that somebody else started and that does not tell."""
        return self.loader.slots if self.supervisor.is_managed or self.reconciler.residents is not None else 0

    @property
    def is_available(self) -> bool:
        """Whether a request may be sent to it now."""
        return self.is_ready and self.breaker.allows

    def post(self, path: str, body: bytes, headers: Mapping[str, str], *, fingerprint: int) -> "EngineRequest":
        """A request to send by entering it as a context."""
        return EngineRequest(self, self.client.post(path, body, headers), fingerprint)


class EngineRequest:
    """A request on an engine: the circuit learns how it fared, and what is running if the engine dies."""

    __slots__ = ("_connection", "_engine", "_fingerprint", "_request", "_run")

    def __init__(self, engine: Engine, request: Request, fingerprint: int) -> None:
        self._engine = engine
        self._request = request
        self._fingerprint = fingerprint
        self._run: RunningRequest
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        self._engine.breaker.begin()
        self._run = self._engine.suspects.began(self._engine.name, self._fingerprint)
        try:
            connection = await self._request.__aenter__()
        except BaseException as error:
            self._end(error)
            raise
        connection.on_first_piece(self._engine.breaker.heard)
        self._connection = connection
        return connection

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        await self._request.__aexit__()
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        error, breaker = reason_of(error), self._engine.breaker
        self._engine.suspects.ended(self._engine.name, self._run, error)
        if isinstance(error, EngineUnreachableError | EngineBrokeOffError) or self._was_mute(error):
            breaker.failed()
        elif error is None or self._is_answered:
            breaker.succeeded()
        breaker.abandoned()

    @property
    def _is_answered(self) -> bool:
        return self._connection is not None and self._connection.is_complete

    def _was_mute(self, error: BaseException | None) -> bool:
        """Whether a time limit passed in silence: a stream that spoke until its last second was only long."""
        if not isinstance(error, EngineTimeoutError):
            return False
        return error.code == "engine_idle_timeout" or self._connection is None or not self._connection.has_spoken
