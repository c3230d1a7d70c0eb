"""Comparators: charges of other models for the same requests, as ranges, each with its assumptions."""

import fnmatch
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from gateway.clock import HOUR_US, utc_datetime
from gateway.costs.prices.rates import Listing, PricedTokens, PriceError, PriceTier, Rates, rates_for
from gateway.metering.usage_queries import SHORT_PROMPT, UsageSums, add_sums
from gateway.money import nano

_FACTORS = Path(__file__).with_name("token_factors.toml")
REFERENCE_CHARS_PER_TOKEN = Decimal("3.9")
"""Characters per token of the open tokenizers that the factors are relative to, in English text."""
REASONING = (Decimal(1), Decimal(3), Decimal(10))
"""Output with reasoning as a multiple of the answer alone: none, a little, a lot. Reasoning is billed as output."""
VARIANTS = ("standard", "cached", "reasoning", "batch")
CACHE_ASSUMPTIONS = (
    "In the variant `cached`, prompt tokens that were read from the cache here are priced as cache reads there; the "
    "rest of these prompts is priced as cache writes (typical and high figure: an upper bound) or as ordinary input "
    "(low figure). Minimum cacheable lengths, often 1,024 tokens and more, and cache lifetimes are not considered: "
    "short prompts cost what `standard` says."
)
"""Assumptions of the variant `cached`."""


class TokenFactor(BaseModel):
    """Tokens of another tokenizer per token of a common open one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...]
    low: Decimal = Field(gt=0)
    typical: Decimal = Field(gt=0)
    high: Decimal = Field(gt=0)
    source: str
    checked_on: date

    def relative_to(self, chars_per_token: Decimal | None) -> "TokenFactor":
        """Return the factor relative to our own tokenizer, if the length of its tokens was measured."""
        if chars_per_token is None:
            return self
        ours = chars_per_token / REFERENCE_CHARS_PER_TOKEN
        return self.model_copy(
            update={
                "low": self.low * ours,
                "typical": self.typical * ours,
                "high": self.high * ours,
                "source": f"{self.source}; times our base's measured {chars_per_token:.2f} characters per token "
                f"over {REFERENCE_CHARS_PER_TOKEN}",
            }
        )


@dataclass(frozen=True, slots=True)
class CostRange:
    """A charge in nano-USD with its bounds."""

    low: int
    typical: int
    high: int


@dataclass(frozen=True)
class Comparator:
    """One model of another provider: its prices, and how many tokens its tokenizer makes of our text."""

    listing: Listing
    factor: TokenFactor
    _known: dict[tuple[int, bool], tuple[PriceTier, ...]] = field(default_factory=dict, compare=False, repr=False)
    _same: dict[tuple[PriceTier, ...], tuple[PriceTier, ...]] = field(default_factory=dict, compare=False, repr=False)

    def charges(self, sums: Sequence[UsageSums], variant: str, period_us: int) -> CostRange:
        """Return the charge for these requests in one variant; raises `PriceError` where it has no price.

        standard: no cache, no reasoning. cached: see `CACHE_ASSUMPTIONS`. reasoning: before every answer. batch: as an
        overnight batch.
        """
        thinking = REASONING if variant == "reasoning" else (Decimal(1),) * 3
        grouped = self._by_prices(sums, period_us, batch=variant == "batch")
        factors = zip((self.factor.low, self.factor.typical, self.factor.high), thinking, strict=True)
        written = (False, True, True) if variant == "cached" else (None,) * 3
        return CostRange(*(self._total(grouped, f, times, w) for (f, times), w in zip(factors, written, strict=True)))

    def typical(self, sums: Sequence[UsageSums], period_us: int) -> int:
        """Return the typical charge of the standard variant alone, for the many lines of a bill."""
        return self._total(self._by_prices(sums, period_us, batch=False), self.factor.typical, Decimal(1), None)

    def _by_prices(
        self, sums: Sequence[UsageSums], period_us: int, *, batch: bool
    ) -> list[tuple[tuple[PriceTier, ...], UsageSums]]:
        """Add up usage at the same prices: within it, charges are proportional to tokens."""
        grouped: dict[tuple[int, int], tuple[tuple[PriceTier, ...], UsageSums]] = {}
        for each in sums:
            tiers = self._tiers(each.period * period_us, batch=batch)
            key = (id(tiers), each.long_prompt)
            before = grouped.get(key)
            grouped[key] = (tiers, each if before is None else add_sums(before[1], each))
        return list(grouped.values())

    def _total(
        self,
        grouped: Sequence[tuple[tuple[PriceTier, ...], UsageSums]],
        factor: Decimal,
        times: Decimal,
        written: bool | None,
    ) -> int:
        """Sum the charges; `written` is None without a cache, else whether uncached tokens are written to it."""
        charged = (self._charge_usd(sums, tiers, factor, times, written) for tiers, sums in grouped)
        return nano(sum(charged, Decimal(0)))

    def _tiers(self, at_us: int, *, batch: bool) -> tuple[PriceTier, ...]:
        known = self._known.get((at_us, batch))
        if known is None:
            found = self.listing.tiers(utc_datetime(at_us), batch=batch)
            # Equal prices become the same object, known by its identity.
            known = self._known[at_us, batch] = self._same.setdefault(found, found)
        return known

    def _charge_usd(
        self, sums: UsageSums, tiers: Sequence[PriceTier], factor: Decimal, thinking: Decimal, written: bool | None
    ) -> Decimal:
        cached = 0 if written is None else sums.cached_tokens
        new = sums.prompt_tokens - cached if written and cached else 0
        tokens = PricedTokens(sums.prompt_tokens, sums.completion_tokens * thinking, cached, new).scaled(factor)
        return self._rates(sums, tiers, factor).charge_usd(tokens)

    def _rates(self, sums: UsageSums, tiers: Sequence[PriceTier], factor: Decimal) -> Rates:
        if not sums.long_prompt and len(tiers) > 1 and SHORT_PROMPT * factor > tiers[1].above_prompt_tokens:
            raise PriceError(
                f"'{self.listing.name}' changes its price at {tiers[1].above_prompt_tokens:,} tokens, below the "
                f"{SHORT_PROMPT:,} up to which requests are summed; it cannot be compared with.",
                param="vs",
            )
        return rates_for(tiers, sums.long_prompt * factor)


def period_of(listings: Iterable[Listing]) -> int:
    """Return the period by which usage must be summed for these prices; an hour has the prices of its beginning."""
    return HOUR_US if any(listing.has_peak_hours for listing in listings) else 24 * HOUR_US


def read_factors() -> tuple[TokenFactor, ...]:
    """Read the token factors that come with this version."""
    document = tomllib.loads(_FACTORS.read_text(encoding="utf-8"), parse_float=Decimal)
    return tuple(TokenFactor.model_validate(raw) for raw in document["factor"])


def factor_for(name: str, factors: Sequence[TokenFactor]) -> TokenFactor:
    """Return the factor of `provider:model`."""
    return next(factor for factor in factors if any(fnmatch.fnmatchcase(name, pattern) for pattern in factor.models))


def per(amount: int | None, count: float, unit: int) -> int | None:
    """Return an amount per `unit` of `count` things, rounded; None when there were none."""
    return None if amount is None or not count else round(amount * unit / Decimal(count))
