"""The bill: hours x price for every engine and day, divided among those who used it; the rest is idle.

An engine's day is the unit: its price for the time it was up, the part of that in which it had work, and who had that
work done. Adapter loads are charged by the time they took; the other busy time by weighted tokens. All amounts are
integer nano-USD, and allocated + idle + overhead is the bill, exactly.

Adapter loads: when an engine spent how long on bringing an adapter in; the bill charges that time to the adapter.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine, insert
from sqlalchemy.exc import SQLAlchemyError

from gateway.clock import DAY_US, HOUR_US, now_us
from gateway.costs.plan import HOURS_PER_MONTH, CostPlan, IdlePolicy
from gateway.costs.weights import Weights
from gateway.metering.engine_uptime import EngineRun
from gateway.metering.tables import adapter_loads
from gateway.metering.usage_queries import OWN_KEYS, Sums, added
from gateway.metering.usage_summary import UsageWindow
from gateway.money import nano, split

Who = tuple[str, str, str]
"""Adapter, tenant, key; all empty strings where there is none."""
Cell = tuple[int, str, str, str, str]
"""Day since the epoch, engine, adapter, tenant, key."""
NOBODY: Who = ("", "", "")
LOADS = "(adapter loads)"
"""The tenant and key under which loads are shown: an operator's promotion has neither."""


@dataclass(slots=True)
class EngineDay:
    """One engine on one day; the price is None when the time is (partly) unpriced."""

    up_us: int = 0
    unpriced_us: int = 0
    nano_us: int = 0
    """Sum of microseconds x nano-USD per hour."""

    @property
    def bill(self) -> int | None:
        """Nano-USD, None when nobody stated a price for all of it."""
        return None if self.unpriced_us else self.nano_us // HOUR_US


@dataclass(frozen=True, slots=True)
class Overhead:
    """Something that is paid whether clients ask or not."""

    name: str
    kind: str
    """`storage`; `training`: an adapter's making, spread over its life; `own work`: what no client asked for."""
    nano_usd: int


@dataclass
class Bill:
    """The costs of a window, in nano-USD; `total` is None when a part of it is unpriced."""

    engine_days: Mapping[tuple[int, str], EngineDay]
    active: dict[Cell, int] = field(default_factory=dict)
    idle_share: dict[Cell, int] = field(default_factory=dict)
    idle: dict[tuple[int, str], int] = field(default_factory=dict)
    overhead: Sequence[Overhead] = ()
    busy_us: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def is_priced(self) -> bool:
        """Whether all engine time has a price, and there was any."""
        return bool(self.engine_days) and not any(day.unpriced_us for day in self.engine_days.values())

    @property
    def total(self) -> int | None:
        """Engines and overhead."""
        if not self.is_priced:
            return None
        return sum(day.bill or 0 for day in self.engine_days.values()) + sum(one.nano_usd for one in self.overhead)

    def own_work(self) -> list[Overhead]:
        """What the engines' work for the gateway itself and for mirrored requests cost; none of it is any client's."""
        found: dict[str, int] = defaultdict(int)
        for (_, _, adapter, _, key), amount in self.active.items():
            if key in OWN_KEYS:
                found[adapter] += amount
        return [Overhead(name, "own work", amount) for name, amount in sorted(found.items())]


def engine_days(
    runs: Iterable[EngineRun], since_us: int, until_us: int, backdated: Callable[[str, int], int | None]
) -> tuple[dict[tuple[int, str], EngineDay], list[str]]:
    """Time up and its price by day and engine, and what was odd; time that runs overlap in is counted once.

    `backdated` gives the price, if any, of a run without one that began at a time.
    """
    days: dict[tuple[int, str], EngineDay] = defaultdict(EngineDay)
    reached: dict[str, int] = {}
    odd: dict[str, int] = defaultdict(int)
    for run in sorted(runs, key=lambda run: run.started_us):
        engine = run.engine or ""
        if run.seen_us < run.started_us:
            odd[engine] += 1
        begin = max(run.started_us, since_us, reached.get(engine, 0))
        end = min(run.seen_us, until_us)
        reached[engine] = max(reached.get(engine, 0), run.seen_us)
        price = run.nano_usd_per_hour
        while begin < end:
            here = min(end, (begin // DAY_US + 1) * DAY_US)
            day = days[begin // DAY_US, engine]
            day.up_us += here - begin
            if (rate := backdated(engine, begin) if price is None else price) is None:
                day.unpriced_us += here - begin
            else:
                day.nano_us += (here - begin) * rate
            begin = here
    for day in days.values():
        day.nano_us -= day.nano_us % HOUR_US  # whole nano-dollars, so that days can be added up
    notes = [
        f"{engine or 'an engine'}: {count} runs end before they begin: the clock was set back. They count as no time."
        for engine, count in odd.items()
    ]
    return dict(days), notes


def make_bill(
    days: Mapping[tuple[int, str], EngineDay],
    window: UsageWindow,
    weights: Weights,
    *,
    policy: IdlePolicy,
    overhead: Sequence[Overhead] = (),
) -> Bill:
    """Divide what the engines cost among those who used them."""
    busy = {key: min(day.up_us, window.busy_us.get(key, 0)) for key, day in days.items()}
    bill = Bill(days, overhead=overhead, busy_us=busy)
    work: dict[tuple[int, str], dict[Who, int]] = defaultdict(lambda: defaultdict(int))
    for sums in window.sums:
        work[sums.period, sums.engine][sums.adapter, sums.tenant, sums.key_id] += weights.of(sums)
    loads: dict[tuple[int, str], dict[Who, int]] = defaultdict(dict)
    for (at, engine, adapter), us in window.load_us.items():
        loads[at, engine][adapter, LOADS, LOADS] = us
    for key, day in days.items():
        if day.bill is not None:
            _allocate(bill, key, day.bill, day.up_us, work.get(key, {}), loads.get(key, {}), policy)
    return bill


def joined(bills: Sequence[Bill]) -> Bill:
    """The bills of stretches that follow each other as one."""
    days: dict[tuple[int, str], EngineDay] = defaultdict(EngineDay)
    whole = Bill(days, overhead=bills[0].overhead, busy_us=defaultdict(int))
    for bill in bills:
        for key, day in bill.engine_days.items():
            days[key].up_us += day.up_us
            days[key].unpriced_us += day.unpriced_us
            days[key].nano_us += day.nano_us
        for into, amounts in ((whole.active, bill.active), (whole.idle_share, bill.idle_share)):
            for cell, amount in amounts.items():
                into[cell] = into.get(cell, 0) + amount
        for key, amount in bill.idle.items():
            whole.idle[key] = whole.idle.get(key, 0) + amount
        for key, us in bill.busy_us.items():
            whole.busy_us[key] += us
    return whole


def _allocate(
    bill: Bill,
    key: tuple[int, str],
    price: int,
    up_us: int,
    work: Mapping[Who, int],
    loads: Mapping[Who, int],
    policy: IdlePolicy,
) -> None:
    """One engine's day."""
    busy, shares = bill.busy_us[key], busy_shares(work, loads, bill.busy_us[key])
    active = price * busy // up_us if any(shares.values()) else 0
    for who, part in split(active, shares).items():
        bill.active[key[0], key[1], *who] = part
    rest = price - active
    takers = idle_shares(shares, policy)
    if not any(takers.values()):
        bill.idle[key] = rest
        return
    for who, part in split(rest, takers).items():
        bill.idle_share[key[0], key[1], *who] = part


def busy_shares(work: Mapping[Who, int], loads: Mapping[Who, int], busy_us: int) -> dict[Who, int]:
    """Relative shares of busy time: loads by their time, all else by work, in one unit."""
    all_work, all_loads = sum(work.values()), sum(loads.values())
    loading = min(all_loads, busy_us)
    if not all_work:
        loading = busy_us if all_loads else 0
    shares: dict[Who, int] = defaultdict(int)
    for who, amount in work.items():
        shares[who] += amount * (busy_us - loading) * max(all_loads, 1)
    for who, us in loads.items():
        shares[who] += us * loading * max(all_work, 1)
    return dict(shares)


def idle_shares(shares: Mapping[Who, int], policy: IdlePolicy) -> dict[Who, int]:
    """Who carries the idle time of an engine's day; nobody when it is a line of its own, or when no client came."""
    if policy is IdlePolicy.OWN_LINE:
        return {}
    used = {who: share for who, share in shares.items() if share and who[2] not in OWN_KEYS}
    if policy is IdlePolicy.PROPORTIONAL:
        return used
    adapters: dict[str, int] = defaultdict(int)
    for (adapter, _, _), share in used.items():
        adapters[adapter] += share
    whole = 1
    for amount in adapters.values():
        whole *= amount
    # Every adapter the same, and within it by its shares.
    return {who: share * (whole // adapters[who[0]]) for who, share in used.items()}


def overheads(plan: CostPlan, since_us: int, until_us: int) -> list[Overhead]:
    """Storage and the making of adapters, as far as they fall into a window."""
    hours_us = max(0, until_us - since_us)
    found = [
        Overhead(one.name, "storage", nano(one.usd_per_month) * hours_us // (HOURS_PER_MONTH * HOUR_US))
        for one in plan.storage
    ]
    found += [Overhead(one.name, "training", one.share_nano_usd(since_us, until_us)) for one in plan.adapter]
    return found


def by_group(sums: Iterable[Sums], key_of: Callable[[Sums], tuple[str, ...]]) -> dict[tuple[str, ...], Sums]:
    """Usage under coarser keys."""
    groups: dict[tuple[str, ...], Sums] = {}
    for one in sums:
        key = key_of(one)
        groups[key] = added(groups[key], one) if key in groups else one
    return groups


log = logging.getLogger(__name__)


class AdapterLoads:
    """Writes down adapter loads; a load that cannot be written down is logged, and has happened all the same."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def recorder(self, engine: str) -> Callable[[str, float], None]:
        """What an engine's loader tells adapter and seconds to, when a load is done; blocks."""

        def record(adapter: str, load_s: float) -> None:
            load_us = int(load_s * 1e6)
            row = {"at_us": now_us() - load_us, "load_us": load_us, "engine": engine, "adapter": adapter}
            try:
                with self._database.begin() as connection:
                    connection.execute(insert(adapter_loads).values(row))
            except SQLAlchemyError:
                log.exception("the load of %s on %s is missing from the bill", adapter, engine)

        return record
