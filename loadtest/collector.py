"""Live totals of a running test: metrics by model, cold or warm, near a promotion; and which models are warm."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from loadtest.backlog import LoadTimeline
from loadtest.metrics import MetricAccumulator, Slo, ttft_ms
from loadtest.records import RequestRecord

RECENT = 500


@dataclass(slots=True)
class LiveTotals:
    """Running totals of one test, or of one of its processes."""

    slo: Slo
    total: MetricAccumulator
    models: dict[str, MetricAccumulator]
    cold: MetricAccumulator
    warm: MetricAccumulator
    near_promotion: MetricAccumulator
    course: LoadTimeline = field(default_factory=LoadTimeline)

    @classmethod
    def empty(cls, slo: Slo, models: Iterable[str] = ()) -> "LiveTotals":
        """Return empty totals; models are listed in this order."""
        return cls(
            slo,
            MetricAccumulator(slo),
            {name: MetricAccumulator(slo) for name in models},
            MetricAccumulator(slo),
            MetricAccumulator(slo),
            MetricAccumulator(slo),
        )

    def add(self, record: RequestRecord, *, near_promotion: bool = False) -> None:
        """Add one complete record."""
        self.total.add(record)
        self.course.add(record)
        self.models.setdefault(record.model, MetricAccumulator(self.slo)).add(record)
        (self.cold if record.cold else self.warm).add(record)
        if near_promotion:
            self.near_promotion.add(record)

    def merge(self, other: "LiveTotals") -> None:
        """Merge the totals of another process."""
        for name, accumulator in other.models.items():
            self.models.setdefault(name, MetricAccumulator(self.slo)).merge(accumulator)
        for name in ("total", "cold", "warm", "near_promotion", "course"):
            getattr(self, name).merge(getattr(other, name))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a running test."""

    at_s: float
    sent: int
    answered: int
    failed: int
    recent_ttft_ms: tuple[float, ...]

    @classmethod
    def sum_of(cls, parts: Iterable["Snapshot"]) -> "Snapshot":
        """Return the state of a test that runs in several processes."""
        known = list(parts)
        return cls(
            max((part.at_s for part in known), default=0.0),
            sum(part.sent for part in known),
            sum(part.answered for part in known),
            sum(part.failed for part in known),
            tuple(ttft for part in known for ttft in part.recent_ttft_ms),
        )


@dataclass(slots=True)
class Collector:
    """Collects requests as they are sent and as they complete."""

    totals: LiveTotals
    cold_after_s: float | None = None
    sent: int = 0
    _answered_s: dict[str, float] = field(default_factory=dict)
    _recent_ttft_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def mark_warm(self, models: Iterable[str]) -> None:
        """Mark models that answered before the start."""
        self._answered_s.update(dict.fromkeys(models, 0.0))

    def leaving(self, record: RequestRecord) -> None:
        """Record that a request is about to be sent, and whether its model is cold."""
        self.sent += 1
        last_s = self._answered_s.get(record.model)
        long_ago = self.cold_after_s is not None and last_s is not None and record.sent_s - last_s > self.cold_after_s
        record.cold = last_s is None or long_ago

    def complete(self, record: RequestRecord, *, near_promotion: bool = False) -> None:
        """Record that a request was answered, failed or was interrupted."""
        self.totals.add(record, near_promotion=near_promotion)
        if record.error is None:
            self._answered_s[record.model] = record.end_s
            first_ms = ttft_ms(record)
            if first_ms is not None:
                self._recent_ttft_ms.append(first_ms)

    def snapshot(self, at_s: float) -> Snapshot:
        """Return the state at a time."""
        total = self.totals.total
        return Snapshot(at_s, self.sent, total.succeeded, total.errors.total(), tuple(self._recent_ttft_ms))
