"""Frontier prices: dated, summed per request, and never 0 for want of knowledge."""

from datetime import UTC, datetime

import pytest

from gateway.errors import InvalidRequestError
from gateway.prices import DEFAULT_COMPARISON, FrontierModel, frontier_models
from gateway.usage import Usage

DAY = datetime(2026, 11, 20, tzinfo=UTC)


def test_a_request_costs_its_tokens_at_the_list_price() -> None:
    model = FrontierModel.parse("anthropic:claude-sonnet-5-5")  # $2 in, $10 out, $0.10 cached, per million
    assert model.charge_nano_usd([Usage(1_000_000, 0)], at=DAY) == 2 * 10**9
    assert model.charge_nano_usd([Usage(0, 1_000_000)], at=DAY) == 10 * 10**9
    assert model.charge_nano_usd([Usage(1_000_000, 0, 1_000_000)], at=DAY) == 10**8


def test_price_tiers_apply_to_each_request_and_not_to_their_sum() -> None:
    model = FrontierModel.parse("anthropic:claude-haiku-5-5")  # five times dearer for prompts over 100,000 tokens
    many_short = model.charge_nano_usd([Usage(1_000, 0)] * 200, at=DAY)
    one_long = model.charge_nano_usd([Usage(200_000, 0)], at=DAY)
    assert one_long == 5 * many_short


def test_announced_changes_apply_from_their_day_on() -> None:
    model = FrontierModel.parse("google:gemini-3.8-flash")
    before = model.charge_nano_usd([Usage(1_000_000, 0)], at=datetime(2026, 12, 31, tzinfo=UTC))
    after = model.charge_nano_usd([Usage(1_000_000, 0)], at=datetime(2027, 1, 2, tzinfo=UTC))
    assert after == 2 * before


@pytest.mark.parametrize("text", ["openai:no-such-model", "nobody:gpt-6-luna", "gpt-6-luna"])
def test_a_model_without_a_price_is_an_error(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        FrontierModel.parse(text)
    assert caught.value.param == "vs"


def test_the_default_comparison_is_priced() -> None:
    assert [model.name for model in frontier_models()] == list(DEFAULT_COMPARISON)
