"""Rates in USD per million tokens, by kind of token and prompt length, and listings: one model's rates over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Protocol

from gateway.errors import InvalidRequestError

_MILLION = Decimal(10**6)
Count = int | Decimal


@dataclass(frozen=True, slots=True)
class PricedTokens:
    """Tokens to be charged; `prompt` includes `cached` and `cache_written`, `output` includes `reasoning`.

    Counts may be fractions: they are scaled by the average ratio between tokenizers.
    """

    prompt: Count = 0
    output: Count = 0
    cached: Count = 0
    cache_written: Count = 0
    reasoning: Count = 0

    def scaled(self, factor: Decimal) -> "PricedTokens":
        """Return the tokens of the same text by another tokenizer."""
        return PricedTokens(
            *(count * factor for count in (self.prompt, self.output, self.cached, self.cache_written, self.reasoning))
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens; None where a kind has no price of its own and is charged as `input` or `output`."""

    input: Decimal
    output: Decimal
    cached_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    reasoning: Decimal | None = None

    def charge_usd(self, tokens: PricedTokens) -> Decimal:
        """Return the cost of tokens; each is charged once, by its most specific kind."""
        cached_read = self.input if self.cached_read is None else self.cached_read
        cache_write = self.input if self.cache_write is None else self.cache_write
        reasoning = self.output if self.reasoning is None else self.reasoning
        usd = (tokens.prompt - tokens.cached - tokens.cache_written) * self.input
        usd += tokens.cached * cached_read + tokens.cache_written * cache_write
        usd += (tokens.output - tokens.reasoning) * self.output + tokens.reasoning * reasoning
        return usd / _MILLION

    def times(self, factor: Decimal) -> "Rates":
        """Multiply all rates, as for a batch discount or a peak surcharge."""

        def scale(rate: Decimal | None) -> Decimal | None:
            return None if rate is None else rate * factor

        return Rates(
            self.input * factor,
            self.output * factor,
            scale(self.cached_read),
            scale(self.cache_write),
            scale(self.cache_write_1h),
            scale(self.reasoning),
        )


@dataclass(frozen=True, slots=True)
class PriceTier:
    """Rates for requests with a longer prompt than this; they hold for all tokens of the request."""

    above_prompt_tokens: int
    rates: Rates


def rates_for(tiers: Sequence[PriceTier], prompt_tokens: Count) -> Rates:
    """Return the rates for a prompt length; tiers ascend from 0, and the first one includes the empty prompt."""
    found = tiers[0]
    for tier in tiers[1:]:
        if prompt_tokens > tier.above_prompt_tokens:
            found = tier
    return found.rates


class PriceError(InvalidRequestError):
    """A price is missing or invalid; the message names it and the fix."""


class Listing(Protocol):
    """The price of one model over time."""

    @property
    def name(self) -> str:
        """`provider:model`."""
        ...

    @property
    def entry(self) -> str:
        """`provider:model` of the data; differs from `name` where the data only lists a similar name."""
        ...

    @property
    def origin(self) -> str:
        """Source of the data, such as `genai-prices 0.2.3` or `prices.toml`."""
        ...

    @property
    def source(self) -> str:
        """Page that states the price."""
        ...

    @property
    def checked_on(self) -> date | None:
        """Day on which it was last compared with that page; None when unknown."""
        ...

    @property
    def note(self) -> str:
        """What the figures leave out, in a few sentences."""
        ...

    @property
    def has_peak_hours(self) -> bool:
        """Whether the price changes within a day."""
        ...

    def tiers(self, at: datetime, *, batch: bool = False) -> tuple[PriceTier, ...]:
        """Return the rates at a time by prompt length; raises `PriceError` when there are none."""
        ...

    def changes(self) -> tuple[date, ...]:
        """Return the known days on which the price changes."""
        ...
