"""Prometheus metrics, and a histogram without locks.

Label values come from closed lists: adapter names of the registry, engine names, endpoints, HTTP statuses.
prometheus_client's own histogram takes two locks for each observation; requests are counted on the event loop only, so
they need none.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class HistogramSeries:
    """The observations under one set of labels."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Observations per bucket, not cumulative; the last bucket has no upper bound."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value in the first bucket whose bound is at least the value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class FastHistogram(Collector):
    """A histogram for prometheus_client's registry; one thread observes, any thread may collect."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = bounds
        self._names = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._series: dict[tuple[str, ...], HistogramSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> HistogramSeries:
        """Return the series of these label values, created on first use."""
        return self._series.setdefault(values, HistogramSeries(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the current values of all series."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in list(self._series.items()):
            cumulative, buckets = 0, []
            for name, count in zip(self._names, series.counts[:], strict=True):
                cumulative += count
                buckets.append((name, cumulative))
            family.add_metric(values, buckets, series.total)
        yield family


_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Metrics of one model on one engine; kept, because a lookup by labels costs more than counting."""

    ttft_s: HistogramSeries
    itl_s: HistogramSeries
    latency_s: HistogramSeries
    queue_s: HistogramSeries
    overhead_s: HistogramSeries
    prompt_tokens: Counter
    completion_tokens: Counter


class AdapterMetrics:
    """Adapter loads, slots and working sets of the engines."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def of_engine(name: str, text: str) -> Gauge:
            return Gauge(f"turntable_adapter_{name}", text, ("engine",), registry=registry)

        self.loads = Counter("turntable_adapter_loads", "Adapter loads by outcome.", ("outcome",), registry=registry)
        self.load_s = Histogram(
            "turntable_adapter_load_seconds", "Time the engine took to load an adapter.", registry=registry
        )
        self.slots = of_engine("slots", "Adapter slots of an engine.")
        self.resident = of_engine("resident", "Adapters that an engine has in memory.")
        self.working_set = of_engine("working_set", "Different adapters used on an engine within five minutes.")
        self.thrash = of_engine("thrash", "1 while the working set exceeds the slots.")


class TrafficMetrics:
    """Canary and shadow traffic, and requests that wait for an adapter slot."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.canary_requests = Counter(
            "turntable_canary_requests",
            "Requests of adapters that have a canary, by track (live, canary) and outcome (answered, failed).",
            ("model", "track", "outcome"),
            registry=registry,
        )
        self.canary_rollbacks = Counter(
            "turntable_canary_rollbacks",
            "Canaries rolled back because they exceeded a limit.",
            ("model",),
            registry=registry,
        )
        self.waiting_for_slot = Gauge(
            "turntable_waiting_for_slot",
            "Requests that wait for an adapter slot.",
            ("engine",),
            registry=registry,
        )
        self.shadow_requests = Counter(
            "turntable_shadow_requests",
            "Shadow requests by outcome: equal or different texts, answered (sampled), failed, dropped.",
            ("model", "outcome"),
            registry=registry,
        )


class LedgerMetrics:
    """The part of the ledger that is not in the database yet."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.unsettled = Gauge(
            "turntable_ledger_unsettled",
            "Ended requests that wait for their settled row.",
            registry=registry,
        )
        self.rejected_lines = Gauge(
            "turntable_ledger_rejected_lines",
            "Invalid journal lines that were rejected and set aside in a file.",
            registry=registry,
        )
        self.journal_bytes = Gauge(
            "turntable_ledger_journal_bytes",
            "Journal size that is not in the database yet.",
            registry=registry,
        )


class Metrics:
    """All metrics of a gateway, in a registry of their own: tests run several gateways in one process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._of_requests: dict[tuple[str, str], RequestMetrics] = {}
        self._of_answers: dict[tuple[str, int], Counter] = {}

        def histogram(name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> FastHistogram:
            return FastHistogram(name, text, labels, bounds, registry)

        model, both = ("model",), ("model", "engine")
        self.requests = Counter(
            "turntable_requests", "Requests by model and HTTP status.", ("model", "status"), registry=registry
        )
        self.tokens = Counter("turntable_tokens", "Tokens by model and kind.", ("model", "kind"), registry=registry)
        self.ttft_s = histogram("turntable_ttft_seconds", "Time to first byte.", both, _LATENCY_BUCKETS_S)
        self.itl_s = histogram(
            "turntable_itl_seconds", "Mean time between the chunks of one stream.", both, _TOKEN_BUCKETS_S
        )
        self.latency_s = histogram(
            "turntable_latency_seconds", "Time to the complete answer.", both, _LATENCY_BUCKETS_S
        )
        self.queue_s = histogram("turntable_queue_seconds", "Time in the admission queue.", model, _LATENCY_BUCKETS_S)
        self.overhead_s = histogram(
            "turntable_overhead_seconds",
            "Gateway overhead: from the complete request to its send to the engine, without queueing; a cold adapter's "
            "load included.",
            model,
            _OVERHEAD_BUCKETS_S,
        )
        self.in_flight = Gauge("turntable_in_flight", "Requests that run on an engine.", ("engine",), registry=registry)
        self.waiting = Gauge("turntable_waiting", "Requests in the admission queue.", registry=registry)
        self.poison_requests = Gauge(
            "turntable_poison_requests", "Requests rejected for a while: an engine died under them.", registry=registry
        )
        self.retries = Counter(
            "turntable_engine_retries",
            "Requests retried on another engine.",
            registry=registry,
        )
        self.engine_up = Gauge("turntable_engine_up", "1 while the engine is ready.", ("engine",), registry=registry)
        self.engine_starts = Counter("turntable_engine_starts", "Engine starts.", ("engine",), registry=registry)
        self.engine_faults = Counter(
            "turntable_engine_supervision_failures",
            "Unexpected errors while supervising an engine.",
            ("engine",),
            registry=registry,
        )
        self.adapters = AdapterMetrics(registry)
        self.traffic = TrafficMetrics(registry)
        self.ledger = LedgerMetrics(registry)

    def of_requests(self, model: str, engine: str) -> RequestMetrics:
        """Return the metrics of one model on one engine; both come from closed lists."""
        known = self._of_requests.get((model, engine))
        if known is None:
            known = self._of_requests[model, engine] = RequestMetrics(
                ttft_s=self.ttft_s.labels(model, engine),
                itl_s=self.itl_s.labels(model, engine),
                latency_s=self.latency_s.labels(model, engine),
                queue_s=self.queue_s.labels(model),
                overhead_s=self.overhead_s.labels(model),
                prompt_tokens=self.tokens.labels(model, "prompt"),
                completion_tokens=self.tokens.labels(model, "completion"),
            )
        return known

    def of_answers(self, model: str, status: int) -> Counter:
        """Return the counter of one model's answers with one HTTP status."""
        known = self._of_answers.get((model, status))
        if known is None:
            known = self._of_answers[model, status] = self.requests.labels(model, str(status))
        return known

    def render(self) -> bytes:
        """Return all metrics in the text exposition format."""
        return generate_latest(self.registry)
