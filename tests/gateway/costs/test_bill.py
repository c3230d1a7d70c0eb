"""The bill: every nano-dollar is allocated, idle or overhead, under each idle policy."""

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import DAY_US, HOUR_US
from gateway.costs.bill import LOADS, Bill, engine_days, make_bill, overheads
from gateway.costs.plan import AdapterPlan, CostPlan, IdlePolicy, StoragePlan
from gateway.costs.request_price import Weights
from gateway.metering.engine_uptime import EngineRun
from gateway.metering.usage_queries import UsageSums
from gateway.metering.usage_summary import UsageWindow
from gateway.money import split


def used(
    adapter: str,
    prompt: int = 0,
    output: int = 0,
    *,
    cached: int = 0,
    tenant: str = "t",
    day: int = 0,
    engine: str = "e",
) -> UsageSums:
    return UsageSums(day, engine, adapter, tenant, "k", 0, 1, 0, prompt, cached, output)


def bill_of(
    window: UsageWindow,
    *,
    usd: int = 2,
    hours: int = 1,
    policy: IdlePolicy = IdlePolicy.OWN_LINE,
    weights: Weights | None = None,
) -> Bill:
    runs = [EngineRun(0, hours * HOUR_US, usd * 10**9, "e")]
    days, _ = engine_days(runs, 0, 2 * DAY_US, lambda *_: None)
    return make_bill(days, window, weights or Weights(), policy=policy)


def by_adapter(amounts: dict[tuple[int, str, str, str, str], int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for (_, _, adapter, _, _), amount in amounts.items():
        found[adapter] = found.get(adapter, 0) + amount
    return found


def test_a_busy_half_hour_is_billed_by_weight_and_the_rest_is_idle() -> None:
    window = UsageWindow([used("", 100), used("tone", 100, 50)], {(0, "e"): HOUR_US // 2}, {})
    bill = bill_of(window)
    assert bill.total == 2 * 10**9
    assert bill.idle == {(0, "e"): 10**9}
    assert by_adapter(bill.active) == {"": 250_000_000, "tone": 750_000_000}  # 1,000 to 3,000 units of work


def test_adapter_loads_are_charged_to_their_adapter_by_the_time_they_took() -> None:
    window = UsageWindow([used("a", 100)], {(0, "e"): HOUR_US // 2}, {(0, "e", "b"): HOUR_US // 8})
    bill = bill_of(window)
    assert by_adapter(bill.active) == {"a": 750_000_000, "b": 250_000_000}
    assert (0, "e", "b", LOADS, LOADS) in bill.active


def test_idle_time_is_carried_as_the_policy_says() -> None:
    window = UsageWindow([used("a", 300), used("b", 100)], {(0, "e"): HOUR_US // 2}, {})
    proportional = bill_of(window, policy=IdlePolicy.PROPORTIONAL)
    assert by_adapter(proportional.idle_share) == {"a": 750_000_000, "b": 250_000_000}
    even = bill_of(window, policy=IdlePolicy.EVEN)
    assert by_adapter(even.idle_share) == {"a": 500_000_000, "b": 500_000_000}
    assert proportional.idle == even.idle == {}


def test_idle_time_of_a_day_without_requests_stays_a_line_of_its_own() -> None:
    for policy in IdlePolicy:
        assert bill_of(UsageWindow([], {}, {}), policy=policy).idle == {(0, "e"): 2 * 10**9}


def test_cached_prompt_tokens_weigh_less_and_generated_ones_more() -> None:
    weights = Weights()
    assert weights.work(100, 100, 0) < weights.work(100, 0, 0) < weights.work(0, 0, 100)


def test_an_engine_without_a_price_is_unpriced_and_not_free() -> None:
    days, _ = engine_days([EngineRun(0, HOUR_US, None, "e")], 0, DAY_US, lambda *_: None)
    bill = make_bill(days, UsageWindow([used("a", 1)], {}, {}), Weights(), policy=IdlePolicy.OWN_LINE)
    assert (bill.total, bill.is_priced, bill.active) == (None, False, {})


def test_a_window_without_an_engine_has_no_bill() -> None:
    assert make_bill({}, UsageWindow([], {}, {}), Weights(), policy=IdlePolicy.OWN_LINE).total is None


def test_a_price_stated_later_covers_the_runs_from_its_day_on() -> None:
    run = EngineRun(0, 2 * DAY_US, None, "e")
    days, _ = engine_days([run], 0, 2 * DAY_US, lambda _engine, at: 10**9 if at >= DAY_US else None)
    assert [day.bill for day in days.values()] == [None, 24 * 10**9]


def test_days_are_those_of_utc_and_only_the_window_is_billed() -> None:
    days, _ = engine_days([EngineRun(0, 3 * DAY_US, 10**9, "e")], HOUR_US, DAY_US + HOUR_US, lambda *_: None)
    assert {key: day.bill for key, day in days.items()} == {(0, "e"): 23 * 10**9, (1, "e"): 10**9}


def test_runs_that_overlap_because_the_clock_was_set_back_are_billed_once() -> None:
    runs = [EngineRun(0, 2 * HOUR_US, 10**9, "e"), EngineRun(HOUR_US, 3 * HOUR_US, 10**9, "e")]
    days, notes = engine_days(runs, 0, DAY_US, lambda *_: None)
    assert days[0, "e"].bill == 3 * 10**9
    assert notes == []
    days, notes = engine_days([EngineRun(5, 3, 10**9, "e")], 0, DAY_US, lambda *_: None)
    assert days == {}
    assert "the clock was set back" in notes[0]


def test_storage_and_training_are_lines_of_their_own() -> None:
    costs = {"training_usd": Decimal(10), "people_usd": Decimal(90)}
    made = AdapterPlan(name="a", trained_on=date(1970, 1, 2), life_days=100, **costs)
    plan = CostPlan(
        storage=(StoragePlan(name="disk", usd_per_month=Decimal(730)),),
        adapter=(made,),
    )
    assert [(o.name, o.kind, o.nano_usd) for o in overheads(plan, 0, 2 * DAY_US)] == [
        ("disk", "storage", 48 * 10**9),
        ("a", "training", 10**9),
    ]
    assert overheads(plan, 101 * DAY_US, 103 * DAY_US)[1].nano_usd == 0


names = st.sampled_from(["", "a", "b", "c"])
sums_strategy = st.builds(
    lambda adapter, tenant, day, engine, prompt, cached, output: used(
        adapter, prompt + cached, output, cached=cached, tenant=tenant, day=day, engine=engine
    ),
    names,
    st.sampled_from(["t", "u"]),
    st.integers(0, 1),
    st.sampled_from(["e", "f", ""]),
    *[st.integers(0, 10**7)] * 3,
)
keys = st.tuples(st.integers(0, 1), st.sampled_from(["e", "f"]))
windows = st.builds(
    UsageWindow,
    st.lists(sums_strategy, max_size=12),
    st.dictionaries(keys, st.integers(0, 2 * DAY_US)),
    st.dictionaries(st.tuples(st.integers(0, 1), st.sampled_from(["e", "f"]), names), st.integers(0, DAY_US)),
)
runs_strategy = st.lists(
    st.builds(
        lambda start, length, price, engine: EngineRun(start, start + length, price, engine),
        st.integers(0, 2 * DAY_US),
        st.integers(0, 2 * DAY_US),
        st.integers(0, 10**12),
        st.sampled_from(["e", "f"]),
    ),
    min_size=1,
    max_size=5,
)


@given(runs_strategy, windows, st.sampled_from(list(IdlePolicy)), st.integers(0, 10**12), st.integers(1, 100))
def test_allocated_plus_idle_plus_overhead_is_the_bill(
    runs: list[EngineRun], window: UsageWindow, policy: IdlePolicy, cents: int, life: int
) -> None:
    plan = CostPlan(
        storage=(StoragePlan(name="disk", usd_per_month=Decimal(cents) / 100),),
        adapter=(AdapterPlan(name="a", data_usd=Decimal(cents) / 100, trained_on=date(1970, 1, 1), life_days=life),),
    )
    days, _ = engine_days(runs, 0, 2 * DAY_US, lambda *_: None)
    bill = make_bill(days, window, Weights(7, 3, 11), policy=policy, overhead=overheads(plan, 0, 2 * DAY_US))
    parts = [*bill.active.values(), *bill.idle_share.values(), *bill.idle.values()]
    assert all(part >= 0 for part in parts)
    if days:
        assert sum(parts) + sum(one.nano_usd for one in bill.overhead) == bill.total
    for key, day in days.items():
        of_day = [amount for cell, amount in (*bill.active.items(), *bill.idle_share.items()) if cell[:2] == key]
        assert sum(of_day) + bill.idle.get(key, 0) == day.bill


@given(st.integers(0, 10**18), st.dictionaries(st.text(max_size=3), st.integers(0, 10**30), min_size=1))
def test_parts_of_an_amount_add_up_and_are_within_one_unit_of_their_share(amount: int, weights: dict[str, int]) -> None:
    parts, total = split(amount, weights), sum(weights.values())
    assert sum(parts.values()) == (amount if total else 0)
    assert all(abs(part * total - amount * weights[key]) < total for key, part in parts.items() if total)


@pytest.mark.parametrize("policy", IdlePolicy)
def test_the_same_division_comes_out_every_time(policy: IdlePolicy) -> None:
    window = UsageWindow([used(name, 1) for name in "abc"], {(0, "e"): 1}, {})
    assert (
        bill_of(window, policy=policy).active
        == bill_of(UsageWindow(window.sums[::-1], window.busy_us, {}), policy=policy).active
    )
