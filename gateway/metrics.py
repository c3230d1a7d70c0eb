"""Prometheus metrics, all names in one place. Labels come from closed lists: the registry's adapter names, the engines'
names, our endpoints, HTTP statuses.

A histogram that costs a request almost nothing: counted on the event loop alone, so without the locks of
prometheus_client's own, which takes two for each observation.
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
        """By bucket, each without those below it; the last one has no upper bound."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value in the bucket of the lowest bound that is not below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class FastHistogram(Collector):
    """A histogram of prometheus_client's kind; one thread observes, any may collect."""

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
        """The series of these label values, begun when it is new."""
        return self._series.setdefault(values, HistogramSeries(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All series as they are now."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in list(self._series.items()):
            so_far, buckets = 0, []
            for name, count in zip(self._names, series.counts[:], strict=True):
                so_far += count
                buckets.append((name, so_far))
            family.add_metric(values, buckets, series.total)
        yield family


_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """What every request of one model on one engine is counted in; looking labels up costs more than counting."""

    ttft_s: HistogramSeries
    itl_s: HistogramSeries
    latency_s: HistogramSeries
    queue_s: HistogramSeries
    overhead_s: HistogramSeries
    prompt_tokens: Counter
    completion_tokens: Counter


class AdapterMetrics:
    """What happens to adapters in the engines."""

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
    """What is counted about names whose traffic is split or shadowed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.canary_requests = Counter(
            "turntable_canary_requests",
            "Requests of adapters that have a canary, by track (live, canary) and outcome (answered, failed).",
            ("model", "track", "outcome"),
            registry=registry,
        )
        self.canary_rollbacks = Counter(
            "turntable_canary_rollbacks",
            "Canaries taken back because they broke a bound.",
            ("model",),
            registry=registry,
        )
        self.waiting_for_slot = Gauge(
            "turntable_waiting_for_slot",
            "Requests that wait because their adapter has no slot and others' turns are not over.",
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
    """How far the ledger's journal is ahead of the database."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.unsettled = Gauge(
            "turntable_ledger_unsettled", "Rows that wait for the disk to be settled.", registry=registry
        )
        self.rejected_lines = Gauge(
            "turntable_ledger_rejected_lines",
            "Invalid journal lines that were rejected and kept aside.",
            registry=registry,
        )
        self.journal_bytes = Gauge(
            "turntable_ledger_journal_bytes", "Size of what the database does not have yet.", registry=registry
        )


class Metrics:
    """The gateway's counters over a registry of their own, so that several gateways can live in one process."""

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
        self.latency_s = histogram("turntable_latency_seconds", "Whole answer.", both, _LATENCY_BUCKETS_S)
        self.queue_s = histogram("turntable_queue_seconds", "Waiting for a slot.", model, _LATENCY_BUCKETS_S)
        self.overhead_s = histogram(
            "turntable_overhead_seconds",
            "From the complete request to the engine having it, without queueing; a cold adapter's load included.",
            model,
            _OVERHEAD_BUCKETS_S,
        )
        self.in_flight = Gauge("turntable_in_flight", "Requests on an engine now.", ("engine",), registry=registry)
        self.waiting = Gauge("turntable_waiting", "Requests waiting for a slot now.", registry=registry)
        self.suspects = Gauge(
            "turntable_poison_requests", "Requests refused because an engine died under them.", registry=registry
        )
        self.retries = Counter(
            "turntable_engine_retries", "Requests sent to a second engine, unseen by the first.", registry=registry
        )
        self.engine_up = Gauge("turntable_engine_up", "1 while the engine serves.", ("engine",), registry=registry)
        self.engine_starts = Counter("turntable_engine_starts", "Engine starts.", ("engine",), registry=registry)
        self.engine_faults = Counter(
            "turntable_engine_supervision_failures",
            "Defects met in watching an engine.",
            ("engine",),
            registry=registry,
        )
        self.adapters = AdapterMetrics(registry)
        self.traffic = TrafficMetrics(registry)
        self.ledger = LedgerMetrics(registry)

    def of_requests(self, model: str, engine: str) -> RequestMetrics:
        """The metrics of one model on one engine; both come from closed lists."""
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
        """The counter of one model's answers with one HTTP status."""
        known = self._of_answers.get((model, status))
        if known is None:
            known = self._of_answers[model, status] = self.requests.labels(model, str(status))
        return known

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
