"""Break-even in steps of whole replicas, payback that may never come, and the worked example to its printed digits."""

from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.cli.costs import app as costs_app
from gateway.costs.breakeven import Fleet, break_even, payback_days
from gateway.costs.docs_tables import EXAMPLE_FLEET, EXAMPLE_MODELS, example_price
from gateway.costs.prices.book import PriceBook

# 1,024 tokens in, 128 out, Qwen3-8B on an H100 at $2.69 an hour, which takes 23.6 requests per second within limits.
H100 = EXAMPLE_FLEET
# USD per 1,000 requests, break-even in requests a day, and that as percent of what one GPU takes.
WORKED_EXAMPLE = {
    "openai:gpt-6-luna": ("0.166", 388_000, "19.0"),
    "anthropic:claude-haiku-5-5": ("0.216", 298_000, "14.6"),
    "fireworks:llama-v3p1-8b-instruct": ("0.230", 280_000, "13.7"),
    "deepseek:deepseek-flash": ("0.230", 280_000, "13.7"),
    "google:gemini-3.7-flash": ("1.25", 52_000, "2.5"),
    "openai:gpt-6.1-terra": ("1.66", 39_000, "1.9"),
    "anthropic:claude-sonnet-5-5": ("4.33", 15_000, "0.7"),
    "anthropic:claude-opus-5-5": ("8.65", 7_500, "0.4"),
    "anthropic:claude-fable-5-1": ("21.6", 3_000, "0.1"),
}


@pytest.mark.parametrize("name", WORKED_EXAMPLE)
def test_the_worked_example_comes_out_to_its_printed_digits(name: str, tmp_path: Path) -> None:
    usd, requests, percent = WORKED_EXAMPLE[name]
    price = example_price(PriceBook.open(tmp_path), name)
    found = break_even(H100, price)
    assert found.requests_per_day is not None
    assert found.share_of_capacity is not None
    assert f"{price * 1000:.{len(usd.partition('.')[2])}f}" == usd
    step = 100 if requests < 10_000 and requests % 1000 else 1000
    assert round(found.requests_per_day / step) * step == requests
    assert f"{found.share_of_capacity:.1%}" == f"{percent}%"


def test_the_worked_example_of_the_docs_is_the_one_that_is_tested() -> None:
    assert set(EXAMPLE_MODELS) == WORKED_EXAMPLE.keys()


def test_the_worked_examples_own_floor() -> None:
    floor = H100.floor_usd_per_request()
    assert floor is not None
    assert f"{floor * 1000:.4f}" == "0.0317"


def test_two_replicas_for_safety_double_the_break_even() -> None:
    one = break_even(H100, Decimal("0.001"))
    two = break_even(Fleet(H100.usd_per_hour, H100.capacity_per_s, min_replicas=2), Decimal("0.001"))
    assert one.requests_per_day is not None
    assert two.requests_per_day == 2 * one.requests_per_day


def test_a_new_replica_can_make_own_engines_dearer_again() -> None:
    fleet = Fleet(Decimal("0.36"), Decimal(1))  # $8.64 a day for 86,400 requests, which cost $10.80 elsewhere
    found = break_even(fleet, Decimal("0.000125"))
    assert [(step.replicas, int(step.pays_from or 0)) for step in found.steps[:5]] == [
        (1, 69_120),
        (2, 138_240),
        (3, 207_360),
        (4, 276_480),
        (5, 345_600),
    ]
    assert found.requests_per_day == 69_120
    assert found.for_good_from == 276_480  # four full replicas gain $8.64, what a fifth costs


def test_an_engine_that_is_dearer_than_the_api_even_when_full_never_pays() -> None:
    found = break_even(Fleet(Decimal(1), Decimal(100) / 86_400), Decimal("0.20"))
    assert (found.requests_per_day, found.for_good_from) == (None, None)
    assert found.reason.startswith("never")
    assert break_even(H100, Decimal(0)).reason.startswith("never")


def test_without_a_capacity_the_assumption_is_reported() -> None:
    found = break_even(Fleet(Decimal(1), None), Decimal("0.01"))
    assert found.requests_per_day == 2400
    assert "not measured" in found.reason


@given(
    st.decimals("0.01", 20, places=2),
    st.decimals("0.001", 10, places=3),
    st.decimals("0.000001", 1, places=6),
    st.integers(1, 3),
    st.decimals(0, 50, places=2),
)
def test_own_engines_pay_where_the_steps_say_and_nowhere_below(
    usd: Decimal, per_s: Decimal, price: Decimal, least: int, overhead: Decimal
) -> None:
    fleet = Fleet(usd, per_s, min_replicas=least, overhead_usd_per_day=overhead)
    found, tiny = break_even(fleet, price), Decimal("1e-6")

    def saves(requests: Decimal) -> bool:
        return requests * price >= fleet.usd_per_day(fleet.replicas(requests))

    if found.requests_per_day is not None:
        assert saves(found.requests_per_day * (1 + tiny)) or saves(found.requests_per_day)
        assert not any(saves(found.requests_per_day * Decimal(share) / 100) for share in range(1, 100))
    else:
        assert not any(saves(per_s * 86_400 * count) for count in range(1, 9))
    if found.for_good_from is not None:
        assert all(saves(found.for_good_from * (1 + tiny) * Decimal(times) / 10) for times in range(10, 60))


def test_payback_counts_days_and_may_be_never() -> None:
    assert payback_days(Decimal(300), Decimal(10)) == 30
    assert payback_days(Decimal(300), Decimal(0)) is None
    assert payback_days(Decimal(300), Decimal(-1)) is None
    assert payback_days(Decimal(0), Decimal(10)) == 0
    assert payback_days(Decimal(0), Decimal(-1)) is None  # nothing was invested, and nothing is saved


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(costs_app, ["breakeven", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_the_command_answers_what_if_for_price_volume_and_model() -> None:
    asked = ["--usd-per-hour", "2.69", "--capacity-per-s", "23.6", "--vs", "openai:gpt-6-luna", "--json"]
    code, text = command(*asked, "--requests-per-day", "1000000", "--investment-usd", "500")
    assert code == 0
    (row,) = orjson.loads(text)["data"]
    assert round(row["requests_per_day"], -3) == 388_000
    assert (row["replicas"], round(row["own_usd_per_day"], 2), row["elsewhere_usd_per_day"]) == (1, 64.56, 166.4)
    assert round(row["payback_days"], 2) == 4.91
    code, text = command("--hardware", "h100", "--capacity-per-s", "23.6", "--utilisation", "0.1")
    assert code == 0
    for words in ("low $1.30/h", "typical $2.69/h", "high $10.98/h", "break-even", "paid back"):
        assert words in text, words


EXAMPLE = ["--hardware", "h100", "--capacity-per-s", "23.6", "--prompt-tokens", "1500", "--output-tokens", "300"]


def test_an_own_engine_that_costs_more_is_never_paid_back_and_the_answer_is_to_stay() -> None:
    code, text = command(*EXAMPLE, "--requests-per-day", "100,000/month", "--json")
    assert code == 0
    rows = orjson.loads(text)["data"]
    assert {round(row["at_requests_per_day"]) for row in rows} == {3_333}
    dearer = [row for row in rows if row["own_usd_per_day"] >= row["elsewhere_usd_per_day"]]
    assert len(dearer) > len(rows) // 2
    assert {row["payback_days"] for row in dearer} == {None}
    code, text = command(*EXAMPLE, "--vs", "google:gemini-3.8-flash", "--requests-per-day", "3333")
    assert code == 0
    assert "after 0.0 days" not in text
    assert "at 3,333 requests per day: stay with google:gemini-3.8-flash" in text
    assert "One engine is full at 2,039,040 requests per day; 1,000 then cost $0.0153 at low $1.30/h," in text


def test_where_own_engines_pay_the_answer_says_so_and_from_when_on() -> None:
    asked = ["--usd-per-hour", "2.69", "--capacity-per-s", "23.6", "--vs", "openai:gpt-6.1-terra"]
    code, text = command(*asked, "--requests-per-day", "100000")
    assert code == 0
    assert "at once" in text  # nothing was invested
    assert "at 100,000 requests per day: your own engine is cheaper: $64.56 per day" in text
    code, text = command(*asked)
    assert "breaks even from 38,798 requests per day (instead of openai:gpt-6.1-terra)" in text


def test_a_model_that_is_priced_by_another_entry_is_said_to_be() -> None:
    asked = ["--usd-per-hour", "2.69", "--capacity-per-s", "23.6", "--vs", "anthropic:claude-sonnet-4-2025-05-14"]
    code, text = command(*asked)
    assert code == 0
    assert "anthropic:claude-sonnet-4-2025-05-14 at the price of anthropic:claude-sonnet-4-0" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--capacity-per-s", "1"], "--usd-per-hour"),
        (["--usd-per-hour", "1"], "turntable loadtest capacity"),
        (["--capacity-per-s", "1", "--usd-per-hour", "2690000"], "above $10,000"),
        (
            ["--capacity-per-s", "1", "--usd-per-hour", "1", "--requests-per-day", "3/moon"],
            "write it like 3000 or 100000/month",
        ),
        (["--capacity-per-s", "1", "--usd-per-hour", "1", "--vs", "gpt-5"], "`turntable prices list gpt-5`"),
        (["--capacity-per-s", "1", "--usd-per-hour", "1", "--vs", "openai:gpt-5-zz"], "`turntable prices list gpt-5`"),
        (["--capacity-per-s", "1", "--usd-per-hour", "-1"], "--usd-per-hour must be above 0"),
        (["--capacity-per-s", "0", "--usd-per-hour", "1"], "--capacity-per-s must be above 0"),
        (["--capacity-per-s", "x", "--usd-per-hour", "1"], "'x' is not a number"),
        (["--capacity-per-s", "nan", "--usd-per-hour", "1"], "--capacity-per-s must be"),
        (["--capacity-per-s", "1", "--hardware", "abacus"], "There is no hardware preset 'abacus'"),
        (["--capacity-per-s", "1", "--usd-per-hour", "1", "--vs", "openai:gone"], "unpriced"),
        (["--capacity-per-s", "1", "--usd-per-hour", "1", "--peak-to-mean", "0.5"], "at least 1"),
    ],
)
def test_bad_figures_get_one_sentence(arguments: list[str], words: str) -> None:
    code, text = command(*arguments)
    assert code == 2
    assert text.startswith("error: ")
    assert words in text
