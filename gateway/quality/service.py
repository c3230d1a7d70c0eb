"""Builds watching from the settings: the sample of answers, feedback, and the reviews made of both.

Gauges of drift and of what is due, renewed once a minute; labels are live names, and closed lists beside them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import Engine

from adapters import Registry
from adapters.answer_profile import FIELD
from gateway.background import Background, Periodic
from gateway.quality.drift import AnswerProfileStore, Drift
from gateway.quality.feedback import FeedbackStore
from gateway.quality.review import QualityReview, Reviewer, Rules
from gateway.quality.sampler import AnswerSampler
from gateway.releases.gate import ServedBase
from gateway.settings import Settings
from gateway.threads import REPORTS


class QualityGauges:
    """What `show` was told last."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._due = Gauge(
            "turntable_retrain_due",
            "1 while a live adapter is due for another round, by reason (drift, feedback, age, base).",
            ("model", "reason"),
            registry=registry,
        )
        self._drift = Gauge(
            "turntable_drift",
            "Distance of live answers from those learnt from: a PSI for lengths and the widest class mix (classes), "
            "the loss of a rate otherwise.",
            ("model", "measure"),
            registry=registry,
        )

    def show(self, reviews: list[QualityReview]) -> None:
        """Replace all gauges."""
        self._due.clear()
        self._drift.clear()
        for review in reviews:
            name, widest = review.version.name, dict[str, float]()
            for trigger in review.triggers:
                self._due.labels(name, trigger.reason).set(trigger.is_due)
            for finding in review.findings:
                if finding.drift is not Drift.TOO_FEW:
                    measure = "classes" if finding.measure.startswith(FIELD) else finding.measure
                    widest[measure] = max(widest.get(measure, finding.distance), finding.distance)
            for measure, distance in widest.items():
                self._drift.labels(name, measure).set(distance)


_COUNT_S = 5.0
_RENEW_S = 60.0


@dataclass(frozen=True)
class QualityMonitoring:
    """Everything that watches, and the work that it does besides requests."""

    registry: Registry
    answers: AnswerSampler
    counts: AnswerProfileStore
    book: FeedbackStore
    reviewer: Reviewer
    gauges: QualityGauges

    def periodic(self, background: Background) -> Iterator[Periodic]:
        """Count the sample, renew the gauges, forget old counts."""
        yield Periodic("answers", _COUNT_S, background.blocking(self.answers.flush))
        yield Periodic("reviews", _RENEW_S, background.blocking(self.renew))
        yield Periodic("answer_counts", _RENEW_S, background.blocking(self.counts.prune))

    async def close(self) -> None:
        """Count what is left of the sample."""
        await REPORTS.run(self.answers.flush)

    def renew(self) -> None:
        """Renew the gauges now; blocks."""
        self.gauges.show([self.reviewer.review(name) for name in self.registry.snapshot.live])


def build_quality_monitoring(
    settings: Settings,
    database: Engine,
    registry: Registry,
    served: ServedBase,
    flush_ledger: Callable[[], object],
    metrics: CollectorRegistry,
) -> QualityMonitoring:
    """Watching over one gateway's answers, and what all gateways of its database have counted."""
    counts, book = AnswerProfileStore(database), FeedbackStore(database, flush_ledger)
    answers = AnswerSampler(counts, metrics, percent=settings.watch_percent)
    rules = Rules(settings.retrain_feedback, settings.retrain_days)
    reviewer = Reviewer(registry, answers, counts, book, served, rules)
    return QualityMonitoring(registry, answers, counts, book, reviewer, QualityGauges(metrics))
