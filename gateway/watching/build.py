"""Builds watching from the settings: the sample of answers, feedback, and the reviews made of both."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from adapters import Registry
from gateway.background import Background, Periodic
from gateway.gates.served_base import ServedBase
from gateway.settings import Settings
from gateway.watching.answers import AnswerWatch
from gateway.watching.counts import AnswerCounts
from gateway.watching.feedback import FeedbackBook
from gateway.watching.gauges import WatchGauges
from gateway.watching.review import Reviewer, Rules

_COUNT_S = 5.0
_RENEW_S = 60.0


@dataclass(frozen=True)
class Watching:
    """Everything that watches, and the work that it does besides requests."""

    registry: Registry
    answers: AnswerWatch
    counts: AnswerCounts
    book: FeedbackBook
    reviewer: Reviewer
    gauges: WatchGauges

    def periodic(self, background: Background) -> Iterator[Periodic]:
        """Count the sample, renew the gauges, forget old counts."""
        yield Periodic("answers", _COUNT_S, background.blocking(self.answers.flush))
        yield Periodic("reviews", _RENEW_S, background.blocking(self.renew))
        yield Periodic("answer_counts", _RENEW_S, background.blocking(self.counts.prune))

    async def close(self) -> None:
        """Count what is left of the sample."""
        await asyncio.to_thread(self.answers.flush)

    def renew(self) -> None:
        """Renew the gauges now; blocks."""
        self.gauges.show([self.reviewer.review(name) for name in self.registry.snapshot.live])


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
