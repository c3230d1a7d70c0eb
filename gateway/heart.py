"""The heart: once a second, what nobody else looks after: which engines are up, for the bill, and gauges."""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from adapters import Registry
from gateway.admission import Admission
from gateway.engine.pool import EnginePool
from gateway.engine.suspects import Suspects
from gateway.engine_runs import EngineRuns
from gateway.keys import KeyOffice
from gateway.ledger import Ledger
from gateway.metrics import Metrics

log = logging.getLogger(__name__)
_BEAT_S = 1.0


@dataclass(frozen=True)
class Heart:
    """Beats over what the composition root has built."""

    pool: EnginePool
    admission: Admission
    suspects: Suspects
    ledger: Ledger
    registry: Registry
    runs: EngineRuns
    keys: KeyOffice
    metrics: Metrics

    async def beat(self) -> None:
        """Run until cancelled; a database that is away is asked again at the next beat."""
        while True:
            self.ledger.retry()
            self._look()
            await self._ask_database()
            await asyncio.sleep(_BEAT_S)

    async def _ask_database(self) -> None:
        """What fails for a reason of its own keeps nothing else from being done: a revoked key ends, whatever else."""
        ready = [engine.name for engine in self.pool.ready]
        for work in (self.keys.refresh, self.registry.refresh, partial(self.runs.heartbeat, ready)):
            try:
                await asyncio.to_thread(work)
            except SQLAlchemyError:
                log.warning("the database does not answer", exc_info=True)
                return
            except Exception:
                log.exception("a beat of the heart failed; the next one tries again")

    def _look(self) -> None:
        metrics = self.metrics
        metrics.waiting.set(self.admission.waiting)
        metrics.suspects.set(len(self.suspects))
        metrics.unsettled.set(self.ledger.unsettled)
        metrics.journal_bytes.set(self.ledger.waiting_bytes)
        for engine in self.pool.engines:
            engine.thrash.look(engine.loader.slots)
            engine.turns.slots = engine.known_slots
            metrics.in_flight.labels(engine.name).set(engine.running)
            metrics.traffic.waiting_turns.labels(engine.name).set(engine.turns.waiting)
            metrics.adapters.resident.labels(engine.name).set(len(engine.loader.resident))
