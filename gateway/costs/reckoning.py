"""The reckoning: usage and bill of one window put together, and the figures per request that follow from them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from gateway.costs.amounts import NANO
from gateway.costs.bill import Bill
from gateway.costs.breakeven import Fleet
from gateway.costs.facts import Facts
from gateway.costs.sums import Sums
from gateway.costs.usage import Window

_US_PER_S = Decimal(10**6)
_PS_PER_US = Decimal(10**6)


@dataclass(frozen=True)
class Reckoning:
    """`shared` is the bill with idle time carried by all in proportion, whatever policy `bill` has."""

    facts: Facts
    window: Window
    bill: Bill
    shared: Bill
    fine: Sequence[Sums]
    """Usage as finely as prices need it."""
    period_us: int
    days: Decimal
    base: str

    @property
    def up_us(self) -> int:
        """Time that engines were up, summed over them."""
        return sum(day.up_us for day in self.bill.engine_days.values())

    @property
    def engines_nano(self) -> int | None:
        """What the engines cost, without overhead."""
        if not self.bill.is_priced:
            return None
        return sum(day.bill or 0 for day in self.bill.engine_days.values())

    @property
    def nano_per_us(self) -> Decimal | None:
        """The mean price of an engine's time."""
        bill = self.engines_nano
        return None if bill is None or not self.up_us else Decimal(bill) / self.up_us

    def work(self, sums: Iterable[Sums]) -> int:
        """Work of requests, in the unit of the weights."""
        return sum(map(self.facts.weights.of, sums))

    def of_model(self, adapter: str) -> list[Sums]:
        """What one adapter, or the base (empty), was used for."""
        return [one for one in self.window.sums if one.adapter == adapter]

    @property
    def adapters(self) -> list[str]:
        """All that were used, the base as the empty name."""
        return sorted({one.adapter for one in self.window.sums})

    def name(self, adapter: str) -> str:
        """An adapter's name, or the base's."""
        return adapter or self.base

    def nano_per_work(self, rate_per_s: float | None) -> Decimal | None:
        """The price of a unit of work on an engine that answers so many of the load test's requests a second."""
        capacity, price = self.facts.capacity, self.nano_per_us
        if price is None or capacity is None or rate_per_s is None:
            return None
        work = self.facts.weights.work(round(capacity.prompt_tokens), 0, round(capacity.output_tokens))
        return price * _US_PER_S / Decimal(str(rate_per_s)) / work if work else None

    @property
    def floor_per_work(self) -> Decimal | None:
        """The price of a unit of work on a saturated engine: as load-tested, else as calibrated."""
        if self.facts.capacity is not None:
            return self.nano_per_work(self.facts.capacity.saturated_per_s)
        if self.facts.weights.is_measured and self.nano_per_us is not None:
            return self.nano_per_us / _PS_PER_US
        return None

    @property
    def realised_per_work(self) -> Decimal | None:
        """The price of a unit of work as it was, idle time included."""
        work = self.work(self.window.sums)
        return Decimal(self.engines_nano) / work if self.engines_nano is not None and work else None

    def shared_by_adapter(self) -> dict[str, int]:
        """What each adapter cost with its part of idle time."""
        found: dict[str, int] = defaultdict(int)
        for part in (self.shared.active, self.shared.idle_share):
            for (_, _, adapter, _, _), amount in part.items():
                found[adapter] += amount
        return found

    def fleet(self, sums: Sequence[Sums], overhead_nano: int) -> Fleet | None:
        """Own engines as break-even sees them, for requests as they were; None without a price."""
        price, requests = self.nano_per_us, sum(one.requests - one.unsettled for one in sums)
        if price is None:
            return None
        capacity, per_s = self.facts.capacity, None
        work = self.work(sums)
        if capacity is not None and capacity.slo_per_s is not None and requests and work:
            tested = self.facts.weights.work(round(capacity.prompt_tokens), 0, round(capacity.output_tokens))
            per_s = Decimal(str(capacity.slo_per_s)) * tested * requests / work or None
        return Fleet(
            usd_per_hour=price * 3600 * _US_PER_S / NANO,
            capacity_per_s=per_s,
            peak_to_mean=self.facts.plan.peak_to_mean,
            min_replicas=self.facts.plan.min_replicas,
            overhead_usd_per_day=Decimal(overhead_nano) / NANO / self.days if self.days else Decimal(0),
        )


def settled(sums: Iterable[Sums]) -> int:
    """How many requests ended in an orderly way."""
    return sum(one.requests - one.unsettled for one in sums)
