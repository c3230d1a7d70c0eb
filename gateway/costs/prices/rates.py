"""A listing: everything known about the price of one model, and where from; what has no price says why.

Rates: USD per million tokens of each kind, by length of the prompt, and what a usage costs at them.
"""

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
    """What is charged for; `prompt` includes `cached` and `cache_written`, `output` includes `reasoning`.

    Counts may be fractions: another model's tokenizer makes so many of the same text on average.
    """

    prompt: Count = 0
    output: Count = 0
    cached: Count = 0
    cache_written: Count = 0
    reasoning: Count = 0

    def scaled(self, factor: Decimal) -> "PricedTokens":
        """The same text in the tokens of another tokenizer."""
        return PricedTokens(
            *(count * factor for count in (self.prompt, self.output, self.cached, self.cache_written, self.reasoning))
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens; None where a kind has no price of its own, and is charged as what it is part of."""

    input: Decimal
    output: Decimal
    cached_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    reasoning: Decimal | None = None

    def charge_usd(self, tokens: PricedTokens) -> Decimal:
        """What these tokens cost; each is charged once, under its most special kind."""
        cached_read = self.input if self.cached_read is None else self.cached_read
        cache_write = self.input if self.cache_write is None else self.cache_write
        reasoning = self.output if self.reasoning is None else self.reasoning
        usd = (tokens.prompt - tokens.cached - tokens.cache_written) * self.input
        usd += tokens.cached * cached_read + tokens.cache_written * cache_write
        usd += (tokens.output - tokens.reasoning) * self.output + tokens.reasoning * reasoning
        return usd / _MILLION

    def times(self, factor: Decimal) -> "Rates":
        """All rates multiplied, as for a batch discount or a peak surcharge."""

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
    """Rates of requests whose prompt is longer than so many tokens; they hold for all tokens of the request."""

    above_prompt_tokens: int
    rates: Rates


def rates_for(tiers: Sequence[PriceTier], prompt_tokens: Count) -> Rates:
    """The rates of a prompt of this length; tiers ascend, and the first one begins at 0 and takes the empty prompt."""
    found = tiers[0]
    for tier in tiers[1:]:
        if prompt_tokens > tier.above_prompt_tokens:
            found = tier
    return found.rates


class PriceError(InvalidRequestError):
    """A price that is missing or cannot be read; the message says which and what to do."""


class Listing(Protocol):
    """The price of one model over time."""

    @property
    def name(self) -> str:
        """`provider:model`."""
        ...

    @property
    def entry(self) -> str:
        """The `provider:model` of the data whose price it is: another name than `name` where that is only alike."""
        ...

    @property
    def origin(self) -> str:
        """Which data it is from, such as `genai-prices 0.2.3` or `prices.toml`."""
        ...

    @property
    def source(self) -> str:
        """The page that states the price."""
        ...

    @property
    def checked_on(self) -> date | None:
        """When somebody last compared it with that page; None when nobody noted it."""
        ...

    @property
    def note(self) -> str:
        """What its figures leave out, in a few sentences."""
        ...

    @property
    def has_peak_hours(self) -> bool:
        """Whether the price changes within a day."""
        ...

    def tiers(self, at: datetime, *, batch: bool = False) -> tuple[PriceTier, ...]:
        """The rates at a moment by length of prompt; raises `PriceError` when there are none."""
        ...

    def changes(self) -> tuple[date, ...]:
        """The days on which the price changes, as far as they are known."""
        ...
