"""Reading the counters of engines: when an engine comes up, and again and again while it serves."""

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from gateway.engine.client import EngineClient
from gateway.errors import GatewayError
from gateway.ledger import now_us
from gateway.reconcile.counts import EngineCounts, Reading

log = logging.getLogger(__name__)


class CountsReader:
    """Asks engines and keeps what they say."""

    def __init__(self, counts: EngineCounts) -> None:
        self._counts = counts

    async def read(self, engine: str, client: EngineClient) -> str | None:
        """Read one engine's counters; returns the run that it is in, None when it tells none or cannot be asked.

        Requests must not go to an engine before this was done: what it worked earlier is not ours.
        """
        try:
            asked_us = now_us()
            counters = await client.counters()
            if counters is None:
                return None
            return await asyncio.to_thread(self._counts.take, engine, Reading(asked_us, now_us(), counters))
        except (GatewayError, SQLAlchemyError):
            log.warning("the counters of %s cannot be read", engine, exc_info=True)
            return None
