"""The bill: every nano-dollar of it is allocated or idle."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.costs import make_bill, weight
from gateway.engine_runs import EngineRun
from gateway.usage import Usage

SECOND, HOUR = 10**6, 3_600 * 10**6


def row(adapter: str | None, start: int, end: int, usage: Usage) -> dict[str, Any]:
    return {
        "adapter": adapter,
        "engine": "engine-0",
        "state": "settled",
        "opened_us": start,
        "settled_us": end,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def test_a_busy_half_hour_is_billed_by_weight_and_the_rest_is_idle() -> None:
    runs = [EngineRun(0, HOUR, 2_000_000_000)]
    rows = [
        row(None, 0, HOUR // 4, Usage(prompt_tokens=100)),
        row("tone", HOUR // 4, HOUR // 2, Usage(prompt_tokens=100, completion_tokens=50)),
    ]
    bill = make_bill(runs, rows, base="base", since_us=0, until_us=HOUR)
    assert bill.total_nano_usd == 2_000_000_000
    assert bill.idle_nano_usd == 1_000_000_000
    assert {line.model: line.cost_nano_usd for line in bill.lines} == {"base": 250_000_000, "tone": 750_000_000}


def test_concurrent_requests_do_not_pay_for_the_same_second_twice() -> None:
    runs = [EngineRun(0, HOUR, 1_000_000_000)]
    rows = [row("a", 0, HOUR // 2, Usage(1, 1)), row("b", 0, HOUR // 2, Usage(1, 1))]
    bill = make_bill(runs, rows, base="base", since_us=0, until_us=HOUR)
    assert bill.busy_us == HOUR // 2
    assert [line.cost_nano_usd for line in bill.lines] == [250_000_000, 250_000_000]


def test_an_engine_without_a_price_is_unpriced_and_not_free() -> None:
    bill = make_bill([EngineRun(0, HOUR, None)], [row("a", 0, 1, Usage(1, 1))], base="base", since_us=0, until_us=HOUR)
    assert bill.total_nano_usd is None
    assert bill.lines[0].cost_nano_usd is None


def test_only_the_window_is_billed() -> None:
    bill = make_bill([EngineRun(0, 10 * HOUR, 10**9)], [], base="base", since_us=HOUR, until_us=3 * HOUR)
    assert bill.total_nano_usd == 2 * 10**9
    assert bill.idle_nano_usd == 2 * 10**9


def test_cached_prompt_tokens_weigh_less_and_completions_more() -> None:
    assert weight(Usage(100, 0, 100)) < weight(Usage(100, 0, 0)) < weight(Usage(0, 100, 0))


usages = st.builds(
    lambda prompt, cached, completion: Usage(prompt + cached, completion, cached),
    *[st.integers(min_value=0, max_value=10**6)] * 3,
)
rows_strategy = st.lists(
    st.builds(
        lambda name, start, length, usage: row(name, start, start + length, usage),
        st.sampled_from([None, "a", "b", "c"]),
        st.integers(0, HOUR),
        st.integers(0, HOUR),
        usages,
    ),
    max_size=20,
)


@given(rows_strategy, st.integers(0, 10**12), st.integers(1, 2 * HOUR))
def test_allocated_plus_idle_is_the_bill(rows: list[dict[str, Any]], price: int, length: int) -> None:
    bill = make_bill([EngineRun(0, length, price)], rows, base="base", since_us=0, until_us=2 * HOUR)
    assert bill.total_nano_usd is not None
    assert bill.idle_nano_usd is not None
    costs = [line.cost_nano_usd for line in bill.lines]
    assert all(cost is not None and cost >= 0 for cost in costs)
    assert sum(cost for cost in costs if cost is not None) + bill.idle_nano_usd == bill.total_nano_usd


@pytest.mark.parametrize("until_us", [0, SECOND])
def test_a_window_without_an_engine_has_no_bill(until_us: int) -> None:
    bill = make_bill([], [], base="base", since_us=0, until_us=until_us)
    assert bill.total_nano_usd is None
    assert bill.up_us == 0
