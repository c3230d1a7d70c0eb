"""Comparators: what other models would have charged for the same requests, as ranges, each with what it assumes."""

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
from gateway.metering.usage_queries import SHORT_PROMPT, Sums, added
from gateway.money import nano

_FACTORS = Path(__file__).with_name("token_factors.toml")
REFERENCE_CHARS_PER_TOKEN = Decimal("3.9")
"""Of the open tokenizers that the factors are relative to, in English text."""
REASONING = (Decimal(1), Decimal(3), Decimal(10))
"""Output with thinking, as a multiple of the answer alone: none, a little, a lot. Thinking is billed as output."""
VARIANTS = ("standard", "cached", "reasoning", "batch")
CACHE_WORDS = (
    "In the variant `cached`, what was read from a cache here is read from one there, and the rest of these prompts is "
    "written into it at the price of writing (likely and high figure: the most there can be to write) or not at all "
    "(low figure). Least lengths that a provider caches, often 1,024 tokens and more, and how long it keeps them are "
    "not reckoned with: short prompts cost what `standard` says."
)
"""What the variant `cached` takes for granted."""


class Factor(BaseModel):
    """Tokens of another tokenizer per token of a common open one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...]
    low: Decimal = Field(gt=0)
    typical: Decimal = Field(gt=0)
    high: Decimal = Field(gt=0)
    source: str
    checked_on: date

    def relative_to(self, chars_per_token: Decimal | None) -> "Factor":
        """The factor over our own tokenizer, when it was measured how long its tokens are."""
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
class Range:
    """Nano-USD: the likely figure, and between what it lies."""

    low: int
    typical: int
    high: int


@dataclass(frozen=True)
class Comparator:
    """One model elsewhere, with how it counts tokens."""

    listing: Listing
    factor: Factor
    _known: dict[tuple[int, bool], tuple[PriceTier, ...]] = field(default_factory=dict, compare=False, repr=False)
    _same: dict[tuple[PriceTier, ...], tuple[PriceTier, ...]] = field(default_factory=dict, compare=False, repr=False)

    def charges(self, sums: Sequence[Sums], variant: str, period_us: int) -> Range:
        """What all these requests would have cost in one variant; raises `PriceError` where it has no price.

        standard: no cache, no thinking. cached: see `CACHE_WORDS`. reasoning: thinking
        before every answer. batch: as an overnight batch.
        """
        thinking = REASONING if variant == "reasoning" else (Decimal(1),) * 3
        together = self._alike(sums, period_us, batch=variant == "batch")
        factors = zip((self.factor.low, self.factor.typical, self.factor.high), thinking, strict=True)
        written = (False, True, True) if variant == "cached" else (None,) * 3
        return Range(*(self._total(together, f, times, w) for (f, times), w in zip(factors, written, strict=True)))

    def typical(self, sums: Sequence[Sums], period_us: int) -> int:
        """The likely figure of the standard variant alone, for the many lines of a bill."""
        return self._total(self._alike(sums, period_us, batch=False), self.factor.typical, Decimal(1), None)

    def _alike(self, sums: Sequence[Sums], period_us: int, *, batch: bool) -> list[tuple[tuple[PriceTier, ...], Sums]]:
        """Usage at the same prices added up: within it, charges are proportional to tokens."""
        together: dict[tuple[int, int], tuple[tuple[PriceTier, ...], Sums]] = {}
        for one in sums:
            tiers = self._tiers(one.period * period_us, batch=batch)
            alike = (id(tiers), one.long_prompt)
            before = together.get(alike)
            together[alike] = (tiers, one if before is None else added(before[1], one))
        return list(together.values())

    def _total(
        self,
        together: Sequence[tuple[tuple[PriceTier, ...], Sums]],
        factor: Decimal,
        times: Decimal,
        written: bool | None,
    ) -> int:
        """`written` is None without a cache, else whether what is not read from it is written into it."""
        charged = (self._charge_usd(one, tiers, factor, times, written) for tiers, one in together)
        return nano(sum(charged, Decimal(0)))

    def _tiers(self, at_us: int, *, batch: bool) -> tuple[PriceTier, ...]:
        known = self._known.get((at_us, batch))
        if known is None:
            found = self.listing.tiers(utc_datetime(at_us), batch=batch)
            # Equal prices become the same object, known by its identity.
            known = self._known[at_us, batch] = self._same.setdefault(found, found)
        return known

    def _charge_usd(
        self, sums: Sums, tiers: Sequence[PriceTier], factor: Decimal, thinking: Decimal, written: bool | None
    ) -> Decimal:
        cached = 0 if written is None else sums.cached_tokens
        new = sums.prompt_tokens - cached if written and cached else 0
        tokens = PricedTokens(sums.prompt_tokens, sums.completion_tokens * thinking, cached, new).scaled(factor)
        return self._rates(sums, tiers, factor).charge_usd(tokens)

    def _rates(self, sums: Sums, tiers: Sequence[PriceTier], factor: Decimal) -> Rates:
        if not sums.long_prompt and len(tiers) > 1 and SHORT_PROMPT * factor > tiers[1].above_prompt_tokens:
            raise PriceError(
                f"'{self.listing.name}' changes its price at {tiers[1].above_prompt_tokens:,} tokens, below the "
                f"{SHORT_PROMPT:,} up to which requests are summed; it cannot be compared with.",
                param="vs",
            )
        return rates_for(tiers, sums.long_prompt * factor)


def period_of(listings: Iterable[Listing]) -> int:
    """How finely usage must be summed for these prices: prices within an hour are taken to be those of its begin."""
    return HOUR_US if any(listing.has_peak_hours for listing in listings) else 24 * HOUR_US


def read_factors() -> tuple[Factor, ...]:
    """The token factors that come with this version."""
    document = tomllib.loads(_FACTORS.read_text(encoding="utf-8"), parse_float=Decimal)
    return tuple(Factor.model_validate(raw) for raw in document["factor"])


def factor_for(name: str, factors: Sequence[Factor]) -> Factor:
    """The factor of `provider:model`."""
    return next(one for one in factors if any(fnmatch.fnmatchcase(name, pattern) for pattern in one.models))


def per(amount: int | None, count: float, unit: int) -> int | None:
    """An amount per `unit` of something, of which there were `count`; None when there were none."""
    return None if amount is None or not count else round(amount * unit / Decimal(count))
