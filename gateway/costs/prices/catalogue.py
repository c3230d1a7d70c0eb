"""The price catalogue: list prices published by the genai-prices project, bundled with it or updated."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from genai_prices import types as genai
from genai_prices.data_snapshot import DataSnapshot, get_snapshot

from gateway.costs.prices.rates import PriceError, PriceTier, Rates

_DAY = re.compile(r"\b20\d\d-[01]\d-[0-3]\d\b")
_KEYS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "reasoning": "output_reasoning_mtok",
}
_BATCH: Mapping[str, str] = {"processing": "batch"}


@dataclass(frozen=True)
class CatalogueListing:
    """The listing of one model of the catalogue."""

    provider: genai.Provider
    model: genai.ModelInfo
    origin: str
    requested: str
    newest: date | None

    @property
    def name(self) -> str:
        """`provider:model`, as requested."""
        return self.requested

    @property
    def entry(self) -> str:
        """The catalogue's own `provider:model`."""
        return f"{self.provider.id}:{self.model.id}"

    @property
    def source(self) -> str:
        """The provider's pricing page."""
        return (self.provider.pricing_urls or ["no page is named"])[0]

    @property
    def checked_on(self) -> date | None:
        """Newest past day that the catalogue names for this model; else None."""
        return _newest(self.note, _horizon(self.newest))

    @property
    def note(self) -> str:
        """The catalogue's comment on the price."""
        return self.model.price_comments or ""

    @property
    def has_peak_hours(self) -> bool:
        """Whether the price changes within a day."""
        return any(isinstance(price.constraint, genai.TimeOfDateConstraint) for price in self._conditional)

    @property
    def _conditional(self) -> list[genai.ConditionalPrice]:
        prices = self.model.prices
        return [] if isinstance(prices, genai.ModelPrice) else prices

    def changes(self) -> tuple[date, ...]:
        """Return the days on which a later price begins."""
        constraints = [price.constraint for price in self._conditional]
        return tuple(sorted({c.start_date for c in constraints if isinstance(c, genai.StartDateConstraint)}))

    def tiers(self, at: datetime, *, batch: bool = False) -> tuple[PriceTier, ...]:
        """Return the rates at a time; raises `PriceError` when text tokens, or batches, have no price."""
        if batch and not any(self._is_batch(variant, at) for variant in self.model.price_variants or ()):
            raise PriceError(f"There is no batch price for '{self.name}' on {at.date()}.", param="vs")
        price = self.model.get_prices(at, _BATCH if batch else None)
        found = {kind: getattr(price, key) for kind, key in _KEYS.items()}
        for kind in ("input", "output"):
            if found[kind] is None:
                raise PriceError(f"'{self.name}' has no price per {kind} token; it is unpriced.", param="vs")
        starts = {0} | {tier.start for rate in found.values() for tier in getattr(rate, "tiers", ())}
        return tuple(PriceTier(start, _rates(found, start)) for start in sorted(starts))

    @staticmethod
    def _is_batch(variant: genai.PriceVariant, at: datetime) -> bool:
        return variant.when == _BATCH and (variant.constraint is None or variant.constraint.active(at))


class Catalogue:
    """A snapshot of genai-prices: bundled with the package, or newer from the data directory."""

    def __init__(self, snapshot: DataSnapshot, origin: str) -> None:
        self._snapshot = snapshot
        self.origin = origin

    @classmethod
    def bundled(cls) -> "Catalogue":
        """Read the snapshot bundled with the package."""
        return cls(get_snapshot(), f"genai-prices {metadata.version('genai-prices')}")

    @classmethod
    def read(cls, path: Path) -> "Catalogue":
        """Read a snapshot from JSON; raises `PriceError` when it is invalid."""
        try:
            content = path.read_bytes()
            return cls(parse_snapshot(content), f"genai-prices of {modified_on(path)}")
        except OSError as error:
            raise PriceError(f"{path} cannot be read ({error.strerror}); run `turntable prices update`.") from error

    @cached_property
    def newest_day(self) -> date | None:
        """Newest past day that the snapshot names anywhere; the snapshot is at least as new."""
        today = datetime.now(UTC).date()
        days = (_newest(model.price_comments or "", today) for _, model in self._models())
        return max((day for day in days if day), default=None)

    def find(self, provider: str, model: str) -> CatalogueListing | None:
        """Find a model by its provider and any name that the provider's API takes."""
        if exact := self._by_name.get(f"{provider}:{model}"):
            return exact
        try:
            home, found = self._snapshot.find_provider_model(model, None, provider, None)
        except LookupError:
            return None
        return CatalogueListing(home, found, self.origin, f"{provider}:{model}", self.newest_day)

    @cached_property
    def _by_name(self) -> dict[str, CatalogueListing]:
        return {listing.name: listing for listing in self}

    def __iter__(self) -> Iterator[CatalogueListing]:
        for provider, model in self._models():
            yield CatalogueListing(provider, model, self.origin, f"{provider.id}:{model.id}", self.newest_day)

    def _models(self) -> Iterator[tuple[genai.Provider, genai.ModelInfo]]:
        for provider in self._snapshot.providers:
            for model in provider.models:
                yield provider, model


def parse_snapshot(content: bytes) -> DataSnapshot:
    """Parse the JSON that genai-prices publishes; raises `PriceError` when it is invalid."""
    try:
        raw: Any = json.loads(content)
        providers = genai._providers_from_raw(raw)
    except (ValueError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise PriceError(f"This is not the JSON of genai-prices ({reason}); the prices stay as they are.") from error
    if not providers or not any(provider.models for provider in providers):
        raise PriceError("This price data names no model; the prices stay as they are.")
    for model in (model for provider in providers for model in provider.models):
        if any(_is_negative(price) for price in _all_prices(model)):
            raise PriceError(f"This price data has a negative price of {model.id}; the prices stay as they are.")
    return DataSnapshot(providers, from_auto_update=False)


def modified_on(path: Path) -> date:
    """Return the UTC day on which a file was written."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date()


def _all_prices(model: genai.ModelInfo) -> Iterator[object]:
    prices = model.prices
    for price in [prices] if isinstance(prices, genai.ModelPrice) else [conditional.prices for conditional in prices]:
        for value in vars(price).values():
            yield from (
                [value.base, *(t.price for t in value.tiers)] if isinstance(value, genai.TieredPrices) else [value]
            )


def _is_negative(price: object) -> bool:
    return isinstance(price, Decimal) and not price >= 0


def _rates(found: Mapping[str, object], above: int) -> Rates:
    values = {kind: _rate(value, above) for kind, value in found.items()}
    priced, output = values.pop("input"), values.pop("output")
    assert priced is not None
    assert output is not None, "checked by the caller"
    return Rates(priced, output, **values)


def _rate(value: object, above: int) -> Decimal | None:
    """Return the price for prompts of just over `above` tokens."""
    if isinstance(value, genai.TieredPrices):
        reached = [tier.price for tier in value.tiers if tier.start <= above]
        return reached[-1] if reached else value.base
    return value if isinstance(value, Decimal) else None


def _horizon(newest: date | None) -> date:
    return newest or datetime.now(UTC).date()


def _newest(text: str, horizon: date) -> date | None:
    days = []
    for found in _DAY.findall(text):
        try:
            days.append(date.fromisoformat(found))
        except ValueError:
            continue
    return max((day for day in days if day <= horizon), default=None)
