"""Two price books side by side: which models appeared, went, or cost something else at a moment."""

from collections.abc import Iterator
from datetime import datetime

from gateway.prices.book import PriceBook
from gateway.prices.listing import PriceError
from gateway.prices.rates import Tier

DEFAULT_COMPARISON = ("openai:gpt-6.1-terra", "anthropic:claude-sonnet-5-5", "google:gemini-3.8-flash")
"""What `turntable costs` compares with unless told: the middle models of the three largest providers."""
GONE = "unpriced"


def changed_prices(before: PriceBook, after: PriceBook, at: datetime) -> Iterator[dict[str, str]]:
    """The models whose price differs, with both prices in words."""
    for name in sorted({*before.names(), *after.names()}):
        old, new = _price(before, name, at), _price(after, name, at)
        if old != new:
            yield {"model": name, "before": _words(old), "after": _words(new)}


def _price(book: PriceBook, name: str, at: datetime) -> tuple[Tier, ...]:
    try:
        return book.find(name).tiers(at)
    except PriceError:
        return ()


def _words(tiers: tuple[Tier, ...]) -> str:
    if not tiers:
        return GONE
    rates = tiers[0].rates
    cached = "" if rates.cached_read is None else f" (cached {rates.cached_read.normalize():f})"
    more = f", {len(tiers) - 1} more by length" if len(tiers) > 1 else ""
    return f"{rates.input.normalize():f}{cached} in, {rates.output.normalize():f} out{more}"
