"""Quality monitoring of one gateway: answer sampler, feedback store and quality reviews, with their periodic work."""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import Engine

from adapters import Registry
from adapters.answer_profile import FIELD
from gateway.quality.drift import Drift
from gateway.quality.feedback import FeedbackStore
from gateway.quality.review import QualityReview, RetrainRules, Reviewer
from gateway.quality.sampler import AnswerProfileStore, AnswerSampler
from gateway.releases.promotion_gate import ServedBase
from gateway.settings import Settings
from gateway.threads import REPORTS

_FLUSH_S = 5.0
_REVIEW_S = 60.0


class QualityGauges:
    """Prometheus gauges of drift and due retraining; labels are live adapters and closed lists."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._due = Gauge(
            "turntable_retrain_due",
            "1 while retraining of a live adapter is due, by reason (drift, feedback, age, base).",
            ("model", "reason"),
            registry=registry,
        )
        self._drift = Gauge(
            "turntable_drift",
            "Distance of live answers from the training answers: a PSI for lengths and the widest class mix (classes), "
            "the loss of a rate otherwise.",
            ("model", "measure"),
            registry=registry,
        )

    def set(self, reviews: list[QualityReview]) -> None:
        """Replace all gauges by the values of these reviews."""
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


@dataclass(frozen=True)
class QualityMonitoring:
    """The parts of quality monitoring, with their periodic work."""

    registry: Registry
    sampler: AnswerSampler
    profiles: AnswerProfileStore
    feedback: FeedbackStore
    reviewer: Reviewer
    gauges: QualityGauges

    async def close(self) -> None:
        """Measure the rest of the sample."""
        await REPORTS.run(self.sampler.flush)

    def review(self) -> None:
        """Review all live adapters and set the gauges; blocks."""
        self.gauges.set([self.reviewer.review(name) for name in self.registry.snapshot.live])


def build_quality_monitoring(
    settings: Settings,
    database: Engine,
    registry: Registry,
    served: ServedBase,
    flush_ledger: Callable[[], object],
    metrics: CollectorRegistry,
) -> QualityMonitoring:
    """Build quality monitoring from the settings; counts and feedback are shared by all gateways of the database."""
    profiles, feedback = AnswerProfileStore(database), FeedbackStore(database, flush_ledger)
    sampler = AnswerSampler(profiles, metrics, percent=settings.watch_percent)
    rules = RetrainRules(settings.retrain_feedback, settings.retrain_days)
    reviewer = Reviewer(registry, sampler, profiles, feedback, served, rules)
    return QualityMonitoring(registry, sampler, profiles, feedback, reviewer, QualityGauges(metrics))
