"""Prometheus gauges of today's costs (UTC), taken from the cost document, with the window that they are of.

The watch: once in a while sums up what is over, renews the gauges of today, and the price of work for requests.
"""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Gauge

from gateway.background import Background, Periodic
from gateway.clock import DAY_US, now_us
from gateway.costs.document import CostDocument
from gateway.costs.inputs import read_weights
from gateway.costs.report import CostQuery, CostReports
from gateway.costs.request_price import RequestPrices, WorkPrice
from gateway.costs.weights import Weights
from gateway.money import NANO


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


_EVERY_S = 60.0
_FIRST_S = 0.5
_EAGER_S = 5.0
_UNPRICED_S = 5.0
_LOOK_BACK_US = 30 * DAY_US
# Summing up may take this share of one core at most, however long the ledger is.
_MOST_SHARE = 0.02


class CostRefresher:
    """Renews what is shown all the time."""

    def __init__(
        self, office: CostReports, gauges: CostGauges, prices: RequestPrices, stated: Callable[[], int | None]
    ) -> None:
        """`stated` tells what an hour of an engine costs now, in nano-USD, None when nobody has said."""
        self._office = office
        self._gauges = gauges
        self._prices = prices
        self._stated = stated
        self._rest_s = _FIRST_S
        self._took_s = 0.0

    def begin(self) -> None:
        """Set a price of work for the very first request; blocks shortly."""
        self._set(self._stated_price(read_weights(self._office.store)))

    def price(self) -> WorkPrice:
        """The price of work in force."""
        return self._prices.price

    def periodic(self, background: Background) -> Iterator[Periodic]:
        """Renew what is shown, rarely once it is known."""
        yield Periodic("costs", self._pause_s, background.blocking(self._renew_timed))

    def _pause_s(self) -> float:
        """Until the first requests came, their price is an assumption, and a bad one."""
        is_known, rest_s = self._prices.price.is_learnt, self._rest_s
        self._rest_s = min(2 * rest_s, _EVERY_S if is_known else _UNPRICED_S)
        return max(rest_s, self._took_s / _MOST_SHARE if is_known or rest_s > _EAGER_S else 0)

    def _renew_timed(self) -> None:
        began_s = time.perf_counter()
        try:
            self.renew()
        finally:
            self._took_s = time.perf_counter() - began_s

    def renew(self) -> None:
        """Renew now; blocks."""
        until = now_us()
        since = until // DAY_US * DAY_US
        document = self._office.document(CostQuery(since, until, vs=()))
        self._gauges.show(document, since, until)
        price = self._work_price(document)
        if price.nano_usd is None:  # nothing was done today, or a part of today has no price: what did it cost before?
            since = max(until - _LOOK_BACK_US, self._office.unpriced_until_us())
            if since < until:
                price = self._work_price(self._office.document(CostQuery(since, until, vs=())))
        if price.nano_usd is None:  # engines were up for moments only, if at all, or nobody has asked them anything yet
            price = self._stated_price(price.weights)
        self._set(price)

    def _set(self, price: WorkPrice) -> None:
        if price.version is not None and price.version != self._prices.price.version:
            self._office.store.keep_price(price.version, price.document())
        self._prices.price = price

    def _stated_price(self, weights: Weights) -> WorkPrice:
        stated = self._stated()
        if stated is None:
            return WorkPrice(weights)
        return WorkPrice.calibrated(weights, stated) if weights.is_measured else WorkPrice.assumed(stated)

    def _work_price(self, document: CostDocument) -> WorkPrice:
        weights = read_weights(self._office.store)
        if document.bill_nano_usd is None or not document.engine_up_s:
            return WorkPrice(weights)
        engines = sum(engine.bill_nano_usd or 0 for engine in document.engines)
        if weights.is_measured:
            return WorkPrice.calibrated(weights, round(engines * 3600 / document.engine_up_s))
        work = sum(
            weights.work(line.prompt_tokens, line.cached_tokens, line.completion_tokens) for line in document.data
        )
        active = sum(line.active_nano_usd or 0 for line in document.data)
        # Work that took no time yet has only just begun to be counted.
        return WorkPrice.recent(weights, active, work) if active or not engines else WorkPrice(weights)
