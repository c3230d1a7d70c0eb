"""Builds watching from the settings: the sample of answers, feedback, and the reviews made of both."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from adapters import Registry
from gateway.gates.served_base import ServedBase
from gateway.settings import Settings
from gateway.watching.answers import AnswerWatch
from gateway.watching.counts import AnswerCounts
from gateway.watching.feedback import FeedbackBook
from gateway.watching.gauges import WatchGauges
from gateway.watching.review import Reviewer, Rules

log = logging.getLogger(__name__)
_EVERY_S = 60.0


@dataclass(frozen=True)
class Watching:
    """Everything that watches, and the work that it does besides requests."""

    registry: Registry
    answers: AnswerWatch
    counts: AnswerCounts
    book: FeedbackBook
    reviewer: Reviewer
    gauges: WatchGauges

    async def run(self) -> None:
        """Count the sample and renew the gauges until cancelled."""
        await asyncio.gather(self.answers.run(), self._renew_forever())

    def renew(self) -> None:
        """Renew the gauges now; blocks."""
        self.gauges.show([self.reviewer.review(name) for name in self.registry.snapshot.live])

    async def _renew_forever(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.renew)
                await asyncio.to_thread(self.counts.prune)
            except Exception:
                log.exception("live answers cannot be reviewed; it is tried again")
            await asyncio.sleep(_EVERY_S)


def build_watching(
    settings: Settings,
    database: Engine,
    registry: Registry,
    served: ServedBase,
    flush_ledger: Callable[[], object],
    metrics: CollectorRegistry,
) -> Watching:
    """Watching over one gateway's answers, and what all gateways of its database have counted."""
    counts, book = AnswerCounts(database), FeedbackBook(database, flush_ledger)
    answers = AnswerWatch(counts, metrics, percent=settings.watch_percent)
    rules = Rules(settings.retrain_feedback, settings.retrain_days)
    reviewer = Reviewer(registry, answers, counts, book, served, rules)
    return Watching(registry, answers, counts, book, reviewer, WatchGauges(metrics))
