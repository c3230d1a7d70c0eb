"""Settling rows: at once when the engine said what a request took, and after asking it when the request was cut off.

Until the engine has answered, the row stays open with the tokens seen so far; a gateway that is killed meanwhile leaves
it with those. An engine that is busy with others takes a while to end what nobody waits for, and is asked again.
"""

import asyncio
import contextlib
import logging
import time

from gateway.background import Group
from gateway.core import UsageSource
from gateway.costs.request_price import RequestPrices
from gateway.engines.client import EngineUsage
from gateway.engines.engine import Engine
from gateway.engines.pool import EnginePool
from gateway.errors import GatewayError
from gateway.metering import Entry, Finish, Ledger
from gateway.quota.manager import QuotaGrant

log = logging.getLogger(__name__)
_PATIENCE_S = 5.0
_PAUSE_S = 1.0
_LONGEST_S = 120.0


class Settlement:
    """Books what requests took, once each, whatever the engine says of it."""

    def __init__(self, ledger: Ledger, pool: EnginePool, prices: RequestPrices, asking: Group) -> None:
        self._ledger = ledger
        self._pool = pool
        self._prices = prices
        self._tasks = asking
        self._silent: set[str | None] = set()
        self._closing = asyncio.Event()

    def settle(self, entry: Entry, permit: QuotaGrant | None = None) -> None:
        """Settle the row of a request that has ended, and what its caller was permitted."""
        engine = self._to_be_asked(entry)
        if engine is None:
            self._end(entry, permit)
            return
        if permit is not None:
            permit.keep(entry)
        self._ledger.note(entry)
        self._tasks.start(self._ask(entry, permit, engine))

    async def close(self) -> None:
        """Return once every row is settled, with what the engine says now."""
        self._closing.set()
        await self._tasks.join()

    def _to_be_asked(self, entry: Entry) -> Engine | None:
        """The engine that may know better what a request took; None when there is nothing to ask."""
        if entry.evidence is UsageSource.EXACT or entry.finish is Finish.REFUSED or entry.engine_run in self._silent:
            return None
        return next((e for e in self._pool.ready if e.name == entry.engine and e.run == entry.engine_run), None)

    async def _ask(self, entry: Entry, permit: QuotaGrant | None, engine: Engine) -> None:
        try:
            worked = await self._worked(entry, engine)
            if worked is not None:
                self._take(entry, worked)
        except Exception:
            log.exception("%s did not say what request %s took", engine.name, entry.request_id)
        finally:
            self._end(entry, permit)

    async def _worked(self, entry: Entry, engine: Engine) -> EngineUsage | None:
        """What the engine says once it has ended the request; None when it does not say. One that stood still may read
        our question before the request itself, so that it knows nothing counts the second time.
        """
        gives_up_s, knew_nothing = time.monotonic() + _LONGEST_S, False
        while True:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    worked = await engine.client.worked_on(entry.request_id)
            except (GatewayError, TimeoutError):
                is_last = self._closing.is_set() or time.monotonic() > gives_up_s
                if is_last or not engine.is_ready or engine.run != entry.engine_run:
                    log.info("%s does not say what request %s took", engine.name, entry.request_id)
                    return None
            else:
                if worked is None:
                    self._silent.add(entry.engine_run)
                if worked is None or worked.usage.prompt_tokens or knew_nothing:
                    return worked
                knew_nothing = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _PAUSE_S)

    def _take(self, entry: Entry, worked: EngineUsage) -> None:
        if entry.first_byte_us is not None and not worked.usage.completion_tokens:
            return  # it answered, and has forgotten that
        entry.usage, entry.choices, entry.evidence = worked.usage, worked.choices, UsageSource.EXACT

    def _end(self, entry: Entry, permit: QuotaGrant | None) -> None:
        price = self._prices.price if permit is None else permit.price
        entry.cost_nano_usd, entry.price_version = price.cost_nano_usd(entry.usage), price.version
        if permit is not None:
            permit.settle(entry)
        self._ledger.settle(entry)
