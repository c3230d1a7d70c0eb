"""The reckoning: usage and bill of one window put together, and the figures per request that follow from them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

from gateway.costs.bill import Bill
from gateway.costs.breakeven import Fleet
from gateway.costs.inputs import CostInputs
from gateway.metering.usage_queries import OWN_KEYS, Sums, clients_of
from gateway.metering.usage_summary import UsageWindow
from gateway.money import NANO, split

_US_PER_S = Decimal(10**6)
_PS_PER_US = Decimal(10**6)
UNUSED = "(idle without requests)"


@dataclass(frozen=True)
class CostContext:
    """`shared` is the bill with idle time carried by all in proportion, whatever policy `bill` has."""

    facts: CostInputs
    window: UsageWindow
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

    @cached_property
    def asked(self) -> list[Sums]:
        """What clients asked for, by day."""
        return clients_of(self.window.sums)

    @cached_property
    def finely_asked(self) -> list[Sums]:
        """The same as finely as prices need it."""
        return clients_of(self.fine)

    def of_model(self, adapter: str) -> list[Sums]:
        """What clients asked one adapter, or the base (empty)."""
        return [one for one in self.asked if one.adapter == adapter]

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
        """The price of a unit of clients' work as it was, idle time and all else included."""
        work = self.work(self.asked)
        return Decimal(self.engines_nano) / work if self.engines_nano is not None and work else None

    @cached_property
    def by_adapter(self) -> dict[str, int]:
        """What the engines cost, by adapter, with idle time: that of days on which nobody came is carried by those who
        came on other days. The gateway's own work stands apart, and `UNUSED` is what nobody can carry.
        """
        found: Counter[str] = Counter()
        for part in (self.shared.active, self.shared.idle_share):
            for (_, _, adapter, _, _), amount in part.items():
                found[adapter] += amount
        rest = sum(self.shared.idle.values())
        takers = {adapter: amount for adapter, amount in found.items() if adapter not in self.own_labels}
        asked = {one.adapter for one in self.asked if one.answered}
        takers = {adapter: amount for adapter, amount in takers.items() if adapter in asked} or takers
        if not any(takers.values()):
            return dict(found) | ({UNUSED: rest} if rest else {})
        found.update(split(rest, takers))
        return dict(found)

    @property
    def own_labels(self) -> set[str]:
        """Under which names work stands that no client asked for."""
        return {one.name for one in self.bill.own_work()} | {
            one.adapter for one in self.window.sums if one.key_id in OWN_KEYS
        }

    @cached_property
    def whole_by_adapter(self) -> dict[str, int]:
        """The engines' whole bill shared by the adapters that clients ask, so that nothing is left over."""
        asked = {name: cost for name, cost in self.by_adapter.items() if name not in {*self.own_labels, UNUSED}}
        return split(self.engines_nano or 0, asked)

    def fleet(self, sums: Sequence[Sums], overhead_nano: int) -> Fleet | None:
        """Own engines as break-even sees them, for requests as they were; None without a price."""
        price, requests = self.nano_per_us, answered(sums)
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


def answered(sums: Iterable[Sums]) -> int:
    """How many requests were answered."""
    return sum(one.answered for one in sums)
