"""Promote versions while the load runs, over the admin API of a gateway."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from urllib.parse import quote

import httpx

from loadtest.client import ChatClient
from loadtest.records import RequestRecord
from loadtest.settings import PromotionPlan

AFTER_S = 1.0
"""Requests sent this long after a promotion count as near it, as do those running during it."""
TIMEOUT_S = 60.0


@dataclass(slots=True)
class PromotionResult:
    """One promotion; `status` is None while it runs and when the gateway did not answer."""

    version: int
    at_s: float
    took_s: float | None = None
    status: int | None = None
    error: str | None = None

    @property
    def until_s(self) -> float:
        """Latest send time of a request near this promotion."""
        return math.inf if self.took_s is None else self.at_s + self.took_s + AFTER_S


@dataclass(slots=True)
class Promoter:
    """Runs the promotions of one test."""

    plan: PromotionPlan | None
    clock: Callable[[], float]
    done: list[PromotionResult] = field(default_factory=list)

    def near(self, record: RequestRecord) -> bool:
        """Return whether a request ran during a promotion, or was sent shortly after one."""
        return any(promotion.at_s <= record.end_s and record.sent_s <= promotion.until_s for promotion in self.done)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Promote in the background for the length of the block."""
        if self.plan is None:
            yield
            return
        async with ChatClient(self.plan.admin_url, self.plan.admin_key, TIMEOUT_S, self.clock) as admin:
            promoting = asyncio.create_task(self._promote_in_turn(self.plan, admin))
            try:
                yield
            finally:
                promoting.cancel()
                await asyncio.gather(promoting, return_exceptions=True)

    async def _promote_in_turn(self, plan: PromotionPlan, admin: ChatClient) -> None:
        for version in cycle(plan.versions):
            await asyncio.sleep(plan.every_s)
            promotion = PromotionResult(version, self.clock())
            self.done.append(promotion)
            await _promote(plan, admin, promotion)
            promotion.took_s = self.clock() - promotion.at_s


async def _promote(plan: PromotionPlan, admin: ChatClient, promotion: PromotionResult) -> None:
    url = f"{plan.admin_url.rstrip('/')}/admin/v1/adapters/{quote(plan.adapter, safe='')}/promote"
    try:
        promotion.status, answer = await admin.post(url, {"version": f"v{promotion.version}"})
    except (httpx.HTTPError, TimeoutError) as error:
        promotion.error = str(error) or type(error).__name__
    else:
        promotion.error = None if promotion.status == 200 else _words(answer)


def _words(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error.get("message")) if isinstance(error, dict) else "no reason given"
