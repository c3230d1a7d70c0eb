"""Gauges of drift and of what is due, renewed once a minute; labels are live names, and closed lists beside them."""

from prometheus_client import CollectorRegistry, Gauge

from adapters.answer_profile import FIELD
from gateway.watching.drift import Drift
from gateway.watching.review import Review


class WatchGauges:
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

    def show(self, reviews: list[Review]) -> None:
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
