"""Cost context: the bill of a window and the costs per request and per unit of work that follow from it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property

from gateway.clock import HOUR_US
from gateway.costs.bill import Bill, engine_days, join_bills, make_bill, overheads
from gateway.costs.breakeven import Fleet
from gateway.costs.inputs import CostInputs
from gateway.costs.plan import IdlePolicy
from gateway.metering.usage_queries import OWN_KEYS, UsageSums, client_sums
from gateway.money import NANO, nano, split

UNUSED = "(idle without requests)"
"""Name of the idle time that no adapter can carry, because no client came at all."""
_US_PER_S = Decimal(10**6)
_PS_PER_US = Decimal(10**6)


@dataclass(frozen=True)
class CostContext:
    """Inputs, their bill, and figures derived from both."""

    inputs: CostInputs
    bill: Bill
    proportional_bill: Bill
    """The same engine time with idle time carried in proportion, whatever policy `bill` has."""
    notes: Sequence[str]
    """Why something is unpriced, missing or odd, as sentences."""

    @property
    def up_us(self) -> int:
        """Uptime summed over the engines."""
        return sum(day.up_us for day in self.bill.engine_days.values())

    @property
    def nano_usd_per_us(self) -> Decimal | None:
        """Mean price of engine time."""
        cost = self.bill.engines_nano_usd
        return None if cost is None or not self.up_us else Decimal(cost) / self.up_us

    def work(self, sums: Iterable[UsageSums]) -> int:
        """Return the work of summed requests, in the unit of the current weights."""
        return sum(map(self.inputs.current_weights.work_of, sums))

    @cached_property
    def client_usage(self) -> list[UsageSums]:
        """Usage by clients, by day."""
        return client_sums(self.inputs.usage.sums)

    @cached_property
    def priced_client_usage(self) -> list[UsageSums]:
        """Usage by clients, in the periods that the comparators' prices need."""
        return client_sums(self.inputs.priced_usage)

    def usage_of(self, adapter: str) -> list[UsageSums]:
        """Return the clients' usage of one adapter, or of the base model (empty)."""
        return [sums for sums in self.client_usage if sums.adapter == adapter]

    def model_name(self, adapter: str) -> str:
        """Return an adapter's name, or the base model's for the empty one."""
        return adapter or self.inputs.base

    def nano_usd_per_work(self, rate_per_s: float | None) -> Decimal | None:
        """Return the price of a unit of work on an engine that answers the load test's requests at this rate."""
        capacity, price = self.inputs.capacity, self.nano_usd_per_us
        if price is None or capacity is None or rate_per_s is None:
            return None
        work = self.inputs.current_weights.work(round(capacity.prompt_tokens), 0, round(capacity.output_tokens))
        return price * _US_PER_S / Decimal(str(rate_per_s)) / work if work else None

    @property
    def floor_per_work(self) -> Decimal | None:
        """Nano-USD per unit of work on a saturated engine: from the load test, else from measured weights."""
        if self.inputs.capacity is not None:
            return self.nano_usd_per_work(self.inputs.capacity.saturated_per_s)
        if self.inputs.current_weights.is_measured and self.nano_usd_per_us is not None:
            return self.nano_usd_per_us / _PS_PER_US
        return None

    @property
    def realised_per_work(self) -> Decimal | None:
        """Nano-USD per unit of clients' work in this window, idle time included."""
        work, cost = self.work(self.client_usage), self.bill.engines_nano_usd
        return Decimal(cost) / work if cost is not None and work else None

    @cached_property
    def cost_by_adapter(self) -> dict[str, int]:
        """Cost of the engines by adapter, idle time included, in nano-USD.

        Idle time of days without clients is carried by the adapters of other days. The gateway's own and shadow
        requests stand apart, and so does `UNUSED`.
        """
        found: Counter[str] = Counter()
        for part in (self.proportional_bill.active, self.proportional_bill.idle_share):
            for (_, _, adapter, _, _), amount in part.items():
                found[adapter] += amount
        rest = sum(self.proportional_bill.idle.values())
        carriers = {adapter: amount for adapter, amount in found.items() if adapter not in self.own_labels}
        answered_adapters = {sums.adapter for sums in self.client_usage if sums.answered}
        carriers = {name: amount for name, amount in carriers.items() if name in answered_adapters} or carriers
        if not any(carriers.values()):
            return dict(found) | ({UNUSED: rest} if rest else {})
        found.update(split(rest, carriers))
        return dict(found)

    @property
    def own_labels(self) -> set[str]:
        """Names under which the gateway's own and shadow requests are summed."""
        return {line.name for line in self.bill.own_work()} | {
            line.adapter for line in self.inputs.usage.sums if line.key_id in OWN_KEYS
        }

    @cached_property
    def full_cost_by_adapter(self) -> dict[str, int]:
        """The whole cost of the engines divided among the adapters that clients used, in nano-USD."""
        used = {name: cost for name, cost in self.cost_by_adapter.items() if name not in {*self.own_labels, UNUSED}}
        return split(self.bill.engines_nano_usd or 0, used)

    def fleet(self, sums: Sequence[UsageSums], overhead_nano_usd: int) -> Fleet | None:
        """Describe the engines for a break-even over requests like these; None without a price."""
        inputs, price, requests = self.inputs, self.nano_usd_per_us, answered(sums)
        if price is None:
            return None
        capacity, per_s, work = inputs.capacity, None, self.work(sums)
        if capacity is not None and capacity.slo_per_s is not None and requests and work:
            tested = inputs.current_weights.work(round(capacity.prompt_tokens), 0, round(capacity.output_tokens))
            per_s = Decimal(str(capacity.slo_per_s)) * tested * requests / work or None
        return Fleet(
            usd_per_hour=price * 3600 * _US_PER_S / NANO,
            capacity_per_s=per_s,
            peak_to_mean=inputs.plan.peak_to_mean,
            min_replicas=inputs.plan.min_replicas,
            overhead_usd_per_day=Decimal(overhead_nano_usd) / NANO / inputs.days if inputs.days else Decimal(0),
        )


def answered(sums: Iterable[UsageSums]) -> int:
    """Count answered requests."""
    return sum(each.answered for each in sums)


def build_context(inputs: CostInputs) -> CostContext:
    """Make the bill of the inputs, period by period; pure."""
    runs, notes = inputs.runs, []
    if (usd_per_hour := inputs.query.usd_per_hour) is not None:
        runs = [replace(run, nano_usd_per_hour=nano(usd_per_hour)) for run in runs]
        notes.append(f"What if: every engine at ${usd_per_hour} per hour.")
    overhead = overheads(inputs.plan, inputs.since_us, inputs.until_us)
    odd_runs: list[str] = []
    bills, proportional = [], []
    for period in inputs.periods:
        days, odd_runs = engine_days(runs, period.since_us, period.until_us, inputs.backdated_nano_usd_per_hour)
        bills.append(make_bill(days, period.usage, period.weights, policy=inputs.idle_policy, overhead=overhead))
        proportional.append(make_bill(days, period.usage, period.weights, policy=IdlePolicy.PROPORTIONAL))
    bill = join_bills(bills)
    notes += [*odd_runs, *_gaps(bill, inputs)]
    return CostContext(inputs, bill, join_bills(proportional), notes)


def _gaps(bill: Bill, inputs: CostInputs) -> list[str]:
    """Explain what is unpriced, and that there were no engines or requests."""
    notes = []
    unpriced: dict[str, int] = defaultdict(int)
    for (_, engine), day in bill.engine_days.items():
        unpriced[engine] += day.unpriced_us
    for engine, us in sorted(unpriced.items()):
        if us:
            notes.append(
                f"{engine or 'An engine'} was up {us / HOUR_US:.2f} h without a stated price, so the bill is unpriced; "
                f"name it in costs.toml with `since`, start the gateway with --engine-usd-per-hour, or give a "
                "--usd-per-hour to see the bill at that price."
            )
    if not bill.engine_days:
        notes.append("No engine of this gateway was up in this window, so there is no bill.")
    if not inputs.usage.sums:
        notes.append("There were no requests in this window.")
    return notes
