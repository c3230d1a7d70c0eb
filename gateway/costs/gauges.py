"""Prometheus gauges of today's costs (UTC), taken from the cost document, with the window that they are of."""

from prometheus_client import CollectorRegistry, Gauge

from gateway.costs.amounts import NANO
from gateway.costs.document import CostDocument


class CostGauges:
    """Gauges over the document of today; what is not known is absent rather than 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"turntable_cost_{name}", text, labels, registry=registry)

        self._bill = gauge("bill_usd", "Today's bill, engines and overhead.")
        self._idle = gauge("idle_usd", "Today's idle engine time that nobody carries.")
        self._model = gauge("model_usd", "Today's cost of a model, with its part of idle time if it has one.", "model")
        self._overhead = gauge("overhead_usd", "Today's share of what is paid anyway.", "kind", "name")
        self._engine = gauge("engine_usd", "Today's price of an engine's time.", "engine")
        self._since = gauge("window_start_seconds", "Begin of the window of these gauges, in Unix time.")
        self._until = gauge("window_end_seconds", "End of the window of these gauges, in Unix time.")

    def show(self, document: CostDocument, since_us: int, until_us: int) -> None:
        """Replace all gauges by those of a document."""
        self._since.set(since_us / 1e6)
        self._until.set(until_us / 1e6)
        for gauge, amount in ((self._bill, document.bill_nano_usd), (self._idle, document.idle_nano_usd)):
            gauge.set(float("nan") if amount is None else amount / NANO)
        self._model.clear()
        for line in document.data:
            if line.cost_nano_usd is not None:
                self._model.labels(line.model).set(line.cost_nano_usd / NANO)
        self._overhead.clear()
        for one in document.overhead:
            self._overhead.labels(one.kind, one.name).set(one.nano_usd / NANO)
        self._engine.clear()
        for engine in document.engines:
            if engine.bill_nano_usd is not None:
                self._engine.labels(engine.name).set(engine.bill_nano_usd / NANO)
