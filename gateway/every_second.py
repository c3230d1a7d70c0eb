"""The heart: once a second, what nobody else looks after: what other gateways have changed, which engines are up, for
the bill, and gauges.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from adapters import Registry
from gateway.auth import ApiKeyService
from gateway.background import Background, Periodic
from gateway.database import DatabaseFile
from gateway.engines.pool import EnginePool
from gateway.inference.admission import Admission
from gateway.inference.poison_requests import PoisonRequests
from gateway.metering import Ledger
from gateway.metering.engine_uptime import EngineRuns
from gateway.metrics import Metrics

_BEAT_S = 1.0


@dataclass(frozen=True)
class EverySecond:
    """Beats over what the composition root has built."""

    pool: EnginePool
    admission: Admission
    suspects: PoisonRequests
    ledger: Ledger
    registry: Registry
    runs: EngineRuns
    keys: ApiKeyService
    metrics: Metrics
    database: DatabaseFile

    def periodic(self, background: Background) -> Iterator[Periodic]:
        """The beats; each goes on, whatever becomes of the others. Without the first two, what an operator has taken
        back would go on being served.
        """
        yield Periodic("keys", _BEAT_S, background.blocking(self.keys.refresh), is_essential=True)
        yield Periodic("registry", _BEAT_S, background.blocking(self.registry.refresh), is_essential=True)
        yield Periodic("engine_runs", _BEAT_S, background.blocking(self._note_engines))
        yield Periodic("database_file", _BEAT_S, background.blocking(self.database.look))
        yield Periodic("gauges", _BEAT_S, self._look)

    def _note_engines(self) -> None:
        self.runs.heartbeat([engine.name for engine in self.pool.ready])

    async def _look(self) -> None:
        self.ledger.retry()
        metrics = self.metrics
        metrics.waiting.set(self.admission.waiting)
        metrics.suspects.set(len(self.suspects))
        metrics.ledger.unsettled.set(self.ledger.unsettled)
        metrics.ledger.rejected_lines.set(self.ledger.rejected)
        metrics.ledger.journal_bytes.set(self.ledger.waiting_bytes)
        for engine in self.pool.engines:
            engine.thrash.look(engine.loader.slots)
            engine.scheduler.slots = engine.known_slots
            metrics.in_flight.labels(engine.name).set(engine.running)
            metrics.traffic.waiting_turns.labels(engine.name).set(engine.scheduler.waiting)
            metrics.adapters.resident.labels(engine.name).set(len(engine.loader.resident))
