"""Prometheus metrics, all names in one place. Labels come from closed lists: adapter names of the registry, status
classes.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The gateway's counters over a registry of their own, so that several gateways can live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "turntable_requests", "Requests by model and HTTP status.", ("model", "status"), registry=self._registry
        )
        self.tokens = Counter(
            "turntable_tokens", "Tokens by model and kind.", ("model", "kind"), registry=self._registry
        )
        self.ttft_s = Histogram(
            "turntable_ttft_seconds",
            "Time to first byte.",
            ("model",),
            buckets=_LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self.latency_s = Histogram(
            "turntable_latency_seconds",
            "Whole answer.",
            ("model",),
            buckets=_LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self.in_flight = Gauge("turntable_in_flight", "Requests running now.", registry=self._registry)
        self.engine_up = Gauge("turntable_engine_up", "1 while the engine serves.", registry=self._registry)
        self.engine_starts = Counter("turntable_engine_starts", "Engine starts.", registry=self._registry)
        self.adapter_loads = Counter(
            "turntable_adapter_loads", "Adapter loads by outcome.", ("outcome",), registry=self._registry
        )
        self.adapter_load_s = Histogram(
            "turntable_adapter_load_seconds", "Time the engine took to load an adapter.", registry=self._registry
        )
        self.unsettled = Counter(
            "turntable_ledger_unsettled", "Rows whose settling could not be written.", registry=self._registry
        )

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)
