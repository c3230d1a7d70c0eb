"""Price files: dated prices in TOML that override the catalogue's; errors name entry and field."""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gateway.costs.prices.rates import PriceError, PriceTier, Rates

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LEAST_TIER = 16_000
"""Requests with shorter prompts are summed before they are priced, so no tier may begin below."""


def _days(text: str) -> str:
    for part in text.split(","):
        if any(end not in DAYS for end in part.split("-")):
            raise ValueError("write days like 'mon-fri' or 'sat,sun'")
    return text


Usd = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Figures(_Entry):
    input: Usd
    output: Usd
    cached_read: Usd | None = None
    cache_write: Usd | None = None
    cache_write_1h: Usd | None = None
    reasoning: Usd | None = None

    @property
    def rates(self) -> Rates:
        return Rates(self.input, self.output, self.cached_read, self.cache_write, self.cache_write_1h, self.reasoning)


class _TierEntry(_Figures):
    above_prompt_tokens: int = Field(ge=LEAST_TIER)


class _Peak(_Entry):
    """Peak hours (UTC) in which all rates are multiplied."""

    begin: time
    end: time
    days: Annotated[str, AfterValidator(_days)] = "mon-sun"
    multiplier: Decimal = Field(gt=0)

    def active(self, at: datetime) -> bool:
        utc = at.astimezone(UTC)
        if utc.weekday() not in set(_weekdays(self.days)):
            return False
        now = utc.time()
        if self.end <= self.begin:
            return now >= self.begin or now < self.end
        return self.begin <= now < self.end


class PriceEntry(_Figures):
    """One `[[price]]`: rates of a model from `valid_from` (inclusive) to `valid_to` (exclusive)."""

    model: str = Field(pattern=r"^[^:\s]+:\S+$")
    valid_from: date | None = None
    valid_to: date | None = None
    batch_multiplier: Decimal | None = Field(None, gt=0)
    source: str = Field(min_length=1)
    checked_on: date
    note: str = ""
    tier: tuple[_TierEntry, ...] = ()
    peak: tuple[_Peak, ...] = ()

    def holds(self, day: date) -> bool:
        """Return whether these rates are in force on a day."""
        return (self.valid_from or date.min) <= day < (self.valid_to or date.max)

    @property
    def span(self) -> str:
        """The validity in words."""
        return f"{self.valid_from or 'the beginning'} to {self.valid_to or 'now on'}"


@dataclass(frozen=True)
class FileListing:
    """All entries of one model, in chronological order and without overlap."""

    name: str
    origin: str
    entries: Sequence[PriceEntry]

    @property
    def entry(self) -> str:
        """The name itself: files list models by the requested name."""
        return self.name

    @property
    def source(self) -> str:
        """Page that states the newest price."""
        return self.entries[-1].source

    @property
    def checked_on(self) -> date | None:
        """Day on which the newest price was compared with that page."""
        return self.entries[-1].checked_on

    @property
    def note(self) -> str:
        """Note of the newest price."""
        return self.entries[-1].note

    @property
    def has_peak_hours(self) -> bool:
        """Whether a price changes within a day."""
        return any(entry.peak for entry in self.entries)

    def holds(self, day: date) -> bool:
        """Return whether the file has a price for a day."""
        return any(entry.holds(day) for entry in self.entries)

    def changes(self) -> tuple[date, ...]:
        """Return the days on which a price begins or ends."""
        return tuple(sorted({day for e in self.entries for day in (e.valid_from, e.valid_to) if day is not None}))

    def tiers(self, at: datetime, *, batch: bool = False) -> tuple[PriceTier, ...]:
        """Return the rates at a time; raises `PriceError` for a day, or for batches, without any."""
        day = at.astimezone(UTC).date()
        entry = next((entry for entry in self.entries if entry.holds(day)), None)
        if entry is None:
            spans = "; ".join(entry.span for entry in self.entries)
            raise PriceError(f"{self.origin} has no price for '{self.name}' on {day}, only for {spans}.", param="vs")
        factor = Decimal(1)
        if batch:
            if entry.batch_multiplier is None:
                raise PriceError(f"There is no batch price for '{self.name}' in {self.origin}.", param="vs")
            factor = entry.batch_multiplier
        for peak in entry.peak:
            if peak.active(at):
                factor *= peak.multiplier
                break
        tiers = [PriceTier(0, entry.rates), *(PriceTier(tier.above_prompt_tokens, tier.rates) for tier in entry.tier)]
        return tuple(PriceTier(t.above_prompt_tokens, t.rates.times(factor)) for t in tiers)


def read_price_file(path: Path, origin: str | None = None) -> dict[str, FileListing]:
    """Read the listings of a price file by name; raises `PriceError` naming entry and field."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError) as error:
        raise PriceError(f"{path.name} cannot be read ({error}).") from error
    except tomllib.TOMLDecodeError as error:
        raise PriceError(f"{path.name} is not valid TOML: {error}.") from error
    if unknown := document.keys() - {"price"}:
        raise PriceError(f"{path.name} has '{sorted(unknown)[0]}'; only [[price]] entries belong there.")
    entries = [_entry(path.name, number, raw) for number, raw in enumerate(document.get("price", []), 1)]
    return {listing.name: listing for listing in _listings(origin or path.name, entries)}


def _entry(file: str, number: int, raw: Any) -> PriceEntry:
    named = f" ({raw['model']})" if isinstance(raw, dict) and isinstance(raw.get("model"), str) else ""
    try:
        entry = PriceEntry.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "entry"
        raise PriceError(f"{file}, price {number}{named}: '{field}': {first['msg']}.") from error
    if entry.valid_from and entry.valid_to and entry.valid_to <= entry.valid_from:
        raise PriceError(f"{file}, price {number}{named}: valid_to is not after valid_from; it holds on no day.")
    starts = [tier.above_prompt_tokens for tier in entry.tier]
    if starts != sorted(set(starts)):
        raise PriceError(
            f"{file}, price {number}{named}: tiers do not ascend by above_prompt_tokens; put them in order."
        )
    return entry


def _listings(file: str, entries: Sequence[PriceEntry]) -> Iterator[FileListing]:
    ordered = sorted(entries, key=lambda entry: (entry.model, entry.valid_from or date.min))
    for name, group in groupby(ordered, key=lambda entry: entry.model):
        of_model = list(group)
        for before, after in pairwise(of_model):
            if (before.valid_to or date.max) > (after.valid_from or date.min):
                raise PriceError(
                    f"{file}: two prices of {name} hold at once ({before.span}, and {after.span}); "
                    "end the first with valid_to where the second begins."
                )
        yield FileListing(name, file, of_model)


def _weekdays(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        yield from range(begin, end + 1) if begin <= end else (*range(begin, 7), *range(end + 1))
