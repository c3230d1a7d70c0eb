"""Prometheus metrics, all names in one place. Labels come from closed lists: the registry's adapter names, the engines'
names, our endpoints, HTTP statuses.
"""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """What every request of one model on one engine is counted in; looking labels up costs more than counting."""

    ttft_s: Histogram
    itl_s: Histogram
    latency_s: Histogram
    queue_s: Histogram
    overhead_s: Histogram
    prompt_tokens: Counter
    completion_tokens: Counter


class Metrics:
    """The gateway's counters over a registry of their own, so that several gateways can live in one process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._of_requests: dict[tuple[str, str], RequestMetrics] = {}

        def histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

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
            "turntable_suspect_requests", "Requests refused because an engine died under them.", registry=registry
        )
        self.retries = Counter(
            "turntable_engine_retries",
            "Requests sent to a second engine, unseen by the first.",
            registry=registry,
        )
        self.engine_up = Gauge("turntable_engine_up", "1 while the engine serves.", ("engine",), registry=registry)
        self.engine_starts = Counter("turntable_engine_starts", "Engine starts.", ("engine",), registry=registry)
        self.adapter_loads = Counter(
            "turntable_adapter_loads", "Adapter loads by outcome.", ("outcome",), registry=registry
        )
        self.adapter_load_s = Histogram(
            "turntable_adapter_load_seconds", "Time the engine took to load an adapter.", registry=registry
        )
        self.unsettled = Counter(
            "turntable_ledger_unsettled", "Rows whose settling could not be written.", registry=registry
        )

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

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)
