"""The bill: hours up x price per hour of every engine and day, allocated to those who used it; the rest is idle.

An engine's day is the unit: its price for the time it was up, the share of that in which it was busy, and whose work
kept it busy. Adapter loads are charged by the time they took, other busy time by weighted tokens. All amounts are
integer nano-USD, and allocated + idle + overhead is the bill, exactly.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.clock import DAY_US, HOUR_US
from gateway.costs.plan import HOURS_PER_MONTH, CostPlan, IdlePolicy
from gateway.costs.request_price import Weights
from gateway.metering.engine_uptime import EngineRun
from gateway.metering.usage_queries import OWN_KEYS
from gateway.metering.usage_summary import UsageWindow
from gateway.money import nano, split

Consumer = tuple[str, str, str]
"""Adapter, tenant, key; the adapter is empty for the base model."""
EngineDayKey = tuple[int, str]
"""Day since the epoch, engine."""
BillKey = tuple[int, str, str, str, str]
"""Day since the epoch, engine, adapter, tenant, key."""
LOADS = "(adapter loads)"
"""Tenant and key of adapter loads: a load by an operator's promotion has neither."""


@dataclass(slots=True)
class EngineDay:
    """Uptime of one engine on one day, and its price."""

    up_us: int = 0
    unpriced_us: int = 0
    """The part of `up_us` without a price per hour."""
    nano_us: int = 0
    """Sum of microseconds x nano-USD per hour."""

    @property
    def bill(self) -> int | None:
        """Cost in nano-USD; None when a part of the time is unpriced."""
        return None if self.unpriced_us else self.nano_us // HOUR_US


@dataclass(frozen=True, slots=True)
class Overhead:
    """A cost that no client's request causes."""

    name: str
    kind: str
    """`storage`; `training`: an adapter's investment, spread over its life; `own work`: probes and shadow requests."""
    nano_usd: int


@dataclass
class Bill:
    """Costs of a window in nano-USD: allocated (`active` + `idle_share`), `idle`, `overhead`."""

    engine_days: Mapping[EngineDayKey, EngineDay]
    active: dict[BillKey, int] = field(default_factory=dict)
    idle_share: dict[BillKey, int] = field(default_factory=dict)
    idle: dict[EngineDayKey, int] = field(default_factory=dict)
    overhead: Sequence[Overhead] = ()
    busy_us: dict[EngineDayKey, int] = field(default_factory=dict)

    @property
    def is_priced(self) -> bool:
        """Whether there was engine time, and all of it has a price."""
        return bool(self.engine_days) and not any(day.unpriced_us for day in self.engine_days.values())

    @property
    def engines_nano_usd(self) -> int | None:
        """Cost of the engines; None when a part of it is unpriced."""
        return sum(day.bill or 0 for day in self.engine_days.values()) if self.is_priced else None

    @property
    def total(self) -> int | None:
        """Cost of engines and overhead; None when a part of it is unpriced."""
        engines = self.engines_nano_usd
        return None if engines is None else engines + sum(overhead.nano_usd for overhead in self.overhead)

    def own_work(self) -> list[Overhead]:
        """Return the cost of the gateway's own and of shadow requests, by what they are summed under."""
        found: dict[str, int] = defaultdict(int)
        for (_, _, adapter, _, key), amount in self.active.items():
            if key in OWN_KEYS:
                found[adapter] += amount
        return [Overhead(name, "own work", amount) for name, amount in sorted(found.items())]


def engine_days(
    runs: Iterable[EngineRun], since_us: int, until_us: int, backdated: Callable[[str, int], int | None]
) -> tuple[dict[EngineDayKey, EngineDay], list[str]]:
    """Sum uptime and its price by day and engine; overlapping runs count once. Also returns notes about odd runs.

    `backdated(engine, at_us)` gives the price per hour, if any, of time that was recorded without one.
    """
    days: dict[EngineDayKey, EngineDay] = defaultdict(EngineDay)
    reached: dict[str, int] = {}
    reversed_runs: dict[str, int] = defaultdict(int)
    for run in sorted(runs, key=lambda run: run.started_us):
        engine = run.engine or ""
        if run.seen_us < run.started_us:
            reversed_runs[engine] += 1
        begin = max(run.started_us, since_us, reached.get(engine, 0))
        end = min(run.seen_us, until_us)
        reached[engine] = max(reached.get(engine, 0), run.seen_us)
        price = run.nano_usd_per_hour
        while begin < end:
            midnight = min(end, (begin // DAY_US + 1) * DAY_US)
            day = days[begin // DAY_US, engine]
            day.up_us += midnight - begin
            if (rate := backdated(engine, begin) if price is None else price) is None:
                day.unpriced_us += midnight - begin
            else:
                day.nano_us += (midnight - begin) * rate
            begin = midnight
    for day in days.values():
        day.nano_us -= day.nano_us % HOUR_US  # whole nano-dollars, so that days can be added up
    notes = [
        f"{engine or 'an engine'}: {count} runs end before they begin: the clock was set back. They count as no time."
        for engine, count in reversed_runs.items()
    ]
    return dict(days), notes


def make_bill(
    days: Mapping[EngineDayKey, EngineDay],
    usage: UsageWindow,
    weights: Weights,
    *,
    policy: IdlePolicy,
    overhead: Sequence[Overhead] = (),
) -> Bill:
    """Allocate the cost of the engines to those who used them."""
    busy = {key: min(day.up_us, usage.busy_us.get(key, 0)) for key, day in days.items()}
    bill = Bill(days, overhead=overhead, busy_us=busy)
    work: dict[EngineDayKey, dict[Consumer, int]] = defaultdict(lambda: defaultdict(int))
    for sums in usage.sums:
        work[sums.period, sums.engine][sums.adapter, sums.tenant, sums.key_id] += weights.work_of(sums)
    loads: dict[EngineDayKey, dict[Consumer, int]] = defaultdict(dict)
    for (day, engine, adapter), us in usage.load_us.items():
        loads[day, engine][adapter, LOADS, LOADS] = us
    for key, engine_day in days.items():
        if engine_day.bill is not None:
            shares = busy_shares(work.get(key, {}), loads.get(key, {}), busy[key])
            _allocate(bill, key, engine_day.bill, engine_day.up_us, shares, policy)
    return bill


def join_bills(bills: Sequence[Bill]) -> Bill:
    """Join the bills of consecutive periods; they share the overhead of the first."""
    days: dict[EngineDayKey, EngineDay] = defaultdict(EngineDay)
    whole = Bill(days, overhead=bills[0].overhead, busy_us=defaultdict(int))
    for bill in bills:
        for key, day in bill.engine_days.items():
            days[key].up_us += day.up_us
            days[key].unpriced_us += day.unpriced_us
            days[key].nano_us += day.nano_us
        for into, amounts in ((whole.active, bill.active), (whole.idle_share, bill.idle_share)):
            for bill_key, amount in amounts.items():
                into[bill_key] = into.get(bill_key, 0) + amount
        for key, amount in bill.idle.items():
            whole.idle[key] = whole.idle.get(key, 0) + amount
        for key, us in bill.busy_us.items():
            whole.busy_us[key] += us
    return whole


def _allocate(
    bill: Bill, key: EngineDayKey, cost: int, up_us: int, shares: Mapping[Consumer, int], policy: IdlePolicy
) -> None:
    """Divide the cost of one engine's day: the busy part by `shares`, the idle part by the policy."""
    active = cost * bill.busy_us[key] // up_us if any(shares.values()) else 0
    for consumer, part in split(active, shares).items():
        bill.active[*key, *consumer] = part
    rest = cost - active
    carriers = idle_shares(shares, policy)
    if not any(carriers.values()):
        bill.idle[key] = rest
        return
    for consumer, part in split(rest, carriers).items():
        bill.idle_share[*key, *consumer] = part


def busy_shares(work: Mapping[Consumer, int], loads: Mapping[Consumer, int], busy_us: int) -> dict[Consumer, int]:
    """Return relative shares of busy time in one unit: adapter loads by their time, the rest by work."""
    all_work, all_loads = sum(work.values()), sum(loads.values())
    loading = min(all_loads, busy_us)
    if not all_work:
        loading = busy_us if all_loads else 0
    shares: dict[Consumer, int] = defaultdict(int)
    for consumer, amount in work.items():
        shares[consumer] += amount * (busy_us - loading) * max(all_loads, 1)
    for consumer, us in loads.items():
        shares[consumer] += us * loading * max(all_work, 1)
    return dict(shares)


def idle_shares(shares: Mapping[Consumer, int], policy: IdlePolicy) -> dict[Consumer, int]:
    """Return relative shares of idle time; empty when it is a line of its own, or when no client used the engine."""
    if policy is IdlePolicy.OWN_LINE:
        return {}
    used = {consumer: share for consumer, share in shares.items() if share and consumer[2] not in OWN_KEYS}
    if policy is IdlePolicy.PROPORTIONAL:
        return used
    adapters: dict[str, int] = defaultdict(int)
    for (adapter, _, _), share in used.items():
        adapters[adapter] += share
    # The same for every adapter, divided within it by its consumers' shares.
    product = math.prod(adapters.values())
    return {consumer: share * (product // adapters[consumer[0]]) for consumer, share in used.items()}


def overheads(plan: CostPlan, since_us: int, until_us: int) -> list[Overhead]:
    """Return storage and training costs of the cost plan that fall into the window."""
    window_us = max(0, until_us - since_us)
    found = [
        Overhead(item.name, "storage", nano(item.usd_per_month) * window_us // (HOURS_PER_MONTH * HOUR_US))
        for item in plan.storage
    ]
    found += [Overhead(item.name, "training", item.share_nano_usd(since_us, until_us)) for item in plan.adapter]
    return found
