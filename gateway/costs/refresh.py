"""Periodic refresh of today's cost gauges and of the work price by which requests are charged."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from gateway.clock import DAY_US, now_us
from gateway.costs.document import CostDocument
from gateway.costs.inputs import CostQuery, read_weights
from gateway.costs.report import CostReports
from gateway.costs.request_price import RequestPrices, Weights, WorkPrice
from gateway.money import NANO

_EVERY_S = 60.0
_FIRST_S = 0.5
_EAGER_S = 5.0
_UNPRICED_S = 5.0
_LOOK_BACK_US = 30 * DAY_US
_MOST_SHARE = 0.02
"""Share of one core that refreshing may take, however long the ledger is."""


class CostGauges:
    """Prometheus gauges of today's cost document (UTC) and its window; unknown amounts are absent or NaN, never 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"turntable_cost_{name}", text, labels, registry=registry)

        self._bill = gauge("bill_usd", "Today's bill, engines and overhead.")
        self._idle = gauge("idle_usd", "Cost of today's idle engine time that no model carries.")
        self._model = gauge("model_usd", "Today's cost of a model, with the idle time that it carries.", "model")
        self._overhead = gauge("overhead_usd", "Today's share of storage, training and own work.", "kind", "name")
        self._engine = gauge("engine_usd", "Today's cost of an engine's uptime.", "engine")
        self._since = gauge("window_start_seconds", "Begin of the window of these gauges, in Unix time.")
        self._until = gauge("window_end_seconds", "End of the window of these gauges, in Unix time.")

    def set(self, document: CostDocument, since_us: int, until_us: int) -> None:
        """Replace all gauges by the values of a document."""
        self._since.set(since_us / 1e6)
        self._until.set(until_us / 1e6)
        for gauge, amount in ((self._bill, document.bill_nano_usd), (self._idle, document.idle_nano_usd)):
            gauge.set(float("nan") if amount is None else amount / NANO)
        self._model.clear()
        for line in document.data:
            if line.cost_nano_usd is not None:
                self._model.labels(line.model).set(line.cost_nano_usd / NANO)
        self._overhead.clear()
        for item in document.overhead:
            self._overhead.labels(item.kind, item.name).set(item.nano_usd / NANO)
        self._engine.clear()
        for engine in document.engines:
            if engine.bill_nano_usd is not None:
                self._engine.labels(engine.name).set(engine.bill_nano_usd / NANO)


class CostRefresher:
    """Refreshes gauges and request prices; `stated()` returns the nano-USD per hour of an engine, None without one."""

    def __init__(
        self, reports: CostReports, gauges: CostGauges, prices: RequestPrices, stated: Callable[[], int | None]
    ) -> None:
        self._reports = reports
        self._gauges = gauges
        self._prices = prices
        self._stated = stated
        self._rest_s = _FIRST_S
        self._took_s = 0.0

    def begin(self) -> None:
        """Set the work price for the first request, from weights and the stated price per hour; blocks briefly."""
        self._set(self._stated_price(read_weights(self._reports.store)))

    def price(self) -> WorkPrice:
        """Return the work price in force."""
        return self._prices.price

    def pause_s(self) -> float:
        """Return the pause until the next refresh: short while the price is only assumed, by `_MOST_SHARE` later."""
        is_known, rest_s = self._prices.price.is_observed, self._rest_s
        self._rest_s = min(2 * rest_s, _EVERY_S if is_known else _UNPRICED_S)
        return max(rest_s, self._took_s / _MOST_SHARE if is_known or rest_s > _EAGER_S else 0)

    def refresh(self) -> None:
        """Refresh now; blocks."""
        began_s = time.perf_counter()
        try:
            self._refresh()
        finally:
            self._took_s = time.perf_counter() - began_s

    def _refresh(self) -> None:
        until = now_us()
        since = until // DAY_US * DAY_US
        document = self._reports.document(CostQuery(since, until, vs=()))
        self._gauges.set(document, since, until)
        price = self._work_price(document)
        if price.nano_usd is None:  # no work today, or a part of today is unpriced: use the days before
            since = max(until - _LOOK_BACK_US, self._reports.unpriced_until_us())
            if since < until:
                price = self._work_price(self._reports.document(CostQuery(since, until, vs=())))
        if price.nano_usd is None:  # no work in these days either
            price = self._stated_price(price.weights)
        self._set(price)

    def _set(self, price: WorkPrice) -> None:
        if price.version is not None and price.version != self._prices.price.version:
            self._reports.store.keep_price(price.version, price.document())
        self._prices.price = price

    def _stated_price(self, weights: Weights) -> WorkPrice:
        stated = self._stated()
        if stated is None:
            return WorkPrice(weights)
        return WorkPrice.calibrated(weights, stated) if weights.is_measured else WorkPrice.assumed(stated)

    def _work_price(self, document: CostDocument) -> WorkPrice:
        weights = read_weights(self._reports.store)
        if document.bill_nano_usd is None or not document.engine_up_s:
            return WorkPrice(weights)
        engines = sum(engine.bill_nano_usd or 0 for engine in document.engines)
        if weights.is_measured:
            return WorkPrice.calibrated(weights, round(engines * 3600 / document.engine_up_s))
        work = sum(
            weights.work(line.prompt_tokens, line.cached_tokens, line.completion_tokens) for line in document.data
        )
        active = sum(line.active_nano_usd or 0 for line in document.data)
        # Work without active time was folded before its busy time: wait for the next refresh.
        return WorkPrice.recent(weights, active, work) if active or not engines else WorkPrice(weights)
