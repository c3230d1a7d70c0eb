"""The tables of docs/explanation/costs.md, from the code and the measurement in docs/benchmarks/costs.json."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gateway.costs.breakeven import Fleet, break_even
from gateway.costs.comparators import factor_for, read_factors
from gateway.costs.plan import read_presets
from gateway.costs.prices.book import PriceBook
from gateway.costs.prices.rates import PricedTokens, rates_for

EXAMPLE_FLEET = Fleet(Decimal("2.69"), Decimal("23.6"))
EXAMPLE_REQUEST = PricedTokens(1024, 128)
EXAMPLE_AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
EXAMPLE_MODELS = (
    "openai:gpt-6-luna",
    "anthropic:claude-haiku-5-5",
    "fireworks:llama-v3p1-8b-instruct",
    "deepseek:deepseek-flash",
    "google:gemini-3.7-flash",
    "openai:gpt-6.1-terra",
    "anthropic:claude-sonnet-5-5",
    "anthropic:claude-opus-5-5",
    "anthropic:claude-fable-5-1",
)


def presets() -> str:
    """Hardware and its prices."""
    lines = ["| preset | card | low | typical | high | checked | from |", "|---|---|---|---|---|---|---|"]
    for name, preset in read_presets().items():
        cells = [f"`{name}`", preset.label, *(f"{usd:.2f}" for usd in (preset.low, preset.typical, preset.high))]
        lines.append("| " + " | ".join([*cells, str(preset.checked_on), preset.source]) + " |")
    return "\n".join(lines)


def factors() -> str:
    """Tokens of other tokenizers."""
    lines = ["| models | low | typical | high | checked | from |", "|---|---|---|---|---|---|"]
    for factor in read_factors():
        models = ", ".join(f"`{pattern}`" for pattern in factor.models)
        lines.append(
            f"| {models} | {factor.low} | {factor.typical} | {factor.high} | {factor.checked_on} | {factor.source} |"
        )
    return "\n".join(lines)


def example_price(book: PriceBook, name: str) -> Decimal:
    """USD per request of the worked example."""
    tokens = EXAMPLE_REQUEST.scaled(factor_for(name, read_factors()).typical)
    return rates_for(book.find(name).tiers(EXAMPLE_AT), tokens.prompt).charge_usd(tokens)


def example() -> str:
    """The worked example of break-even, by the bundled prices."""
    book = PriceBook.shipped()
    floor = EXAMPLE_FLEET.floor_usd_per_request() or Decimal(0)
    lines = ["| instead of | USD per 1,000 requests | pays from requests a day | of one GPU |", "|---|---|---|---|"]
    for name in EXAMPLE_MODELS:
        price = example_price(book, name)
        found = break_even(EXAMPLE_FLEET, price)
        requests, share = found.requests_per_day or 0, found.share_of_capacity or 0
        lines.append(f"| `{name}` | {price * 1000:.3f} | {requests:,.0f} | {share:.1%} |")
    lines += ["", f"Here, within limits: ${floor * 1000:.4f} per 1,000 requests. Two replicas double the break-even."]
    return "\n".join(lines)


def bench(measured: Mapping[str, Any]) -> str:
    """How long summing up takes."""
    lines = ["| database | the very first time | summary (of it CPU) | whole document, three comparators (of it CPU) |"]
    lines.append("|---|---|---|---|")
    for name in ("SQLite", "PostgreSQL"):
        figures = measured.get(name)
        if figures is None:
            lines.append(f"| {name} | not measured | | |")
            continue
        cells = [f"{figures[f'{step}_s']:.2f} s ({figures[f'{step}_cpu_s']:.2f} s)" for step in ("summary", "document")]
        lines.append(" | ".join([f"| {name}", f"{figures['first_s']:.0f} s", *cells]) + " |")
    shape = f"{measured['rows']:,} rows over {measured['days']} days, {measured['adapters']} adapters"
    about = f"{shape}, {measured['tenants']} tenants; the median of {measured['rounds']} rounds."
    busy = f"{measured['cores']} cores, on which {measured['load_average']:.1f} processes wanted to run at the time"
    lines += ["", f"{about} {busy}: on a quiet machine the clock shows little more than the CPU."]
    return "\n".join(lines)
