"""The price book: finds `provider:model` in the operator's file, in ours, in the catalogue; works offline."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path

from gateway.costs.prices.catalogue import Catalogue, CatalogueListing
from gateway.costs.prices.price_file import FileListing, read_price_file
from gateway.costs.prices.rates import Listing, PriceError, PriceTier

PRICE_FILE = "prices.toml"
SNAPSHOT_FILE = "genai-prices.json"
OLD_DAYS = 45
_SHIPPED, _OURS = Path(__file__).with_name("shipped.toml"), "turntable"


@dataclass(frozen=True)
class LayeredListing:
    """A listing with the file's prices on days for which it has any, and the catalogue's on others."""

    file: FileListing
    catalogue: CatalogueListing

    @property
    def name(self) -> str:
        """`provider:model`."""
        return self.file.name

    @property
    def entry(self) -> str:
        """The name itself: files list models by the requested name."""
        return self.file.entry

    @property
    def origin(self) -> str:
        """Both origins."""
        return f"{self.file.origin} over {self.catalogue.origin}"

    @property
    def source(self) -> str:
        """Page named by the file."""
        return self.file.source

    @property
    def checked_on(self) -> date | None:
        """Day named by the file."""
        return self.file.checked_on

    @property
    def note(self) -> str:
        """Note of the file."""
        return self.file.note

    @property
    def has_peak_hours(self) -> bool:
        """Whether a price of either changes within a day."""
        return self.file.has_peak_hours or self.catalogue.has_peak_hours

    def changes(self) -> tuple[date, ...]:
        """Return the days on which either changes."""
        return tuple(sorted({*self.file.changes(), *self.catalogue.changes()}))

    def tiers(self, at: datetime, *, batch: bool = False) -> tuple[PriceTier, ...]:
        """Return the rates at a time, from the file if it has any for that day."""
        chosen: Listing = self.file if self.file.holds(at.astimezone(UTC).date()) else self.catalogue
        return chosen.tiers(at, batch=batch)


class PriceBook:
    """Finds prices without a network; only `turntable prices update` fetches any."""

    def __init__(self, files: dict[str, FileListing], catalogue: Catalogue) -> None:
        self._files = files
        self.catalogue = catalogue

    @classmethod
    def open(cls, data_dir: Path) -> "PriceBook":
        """Read the price book of a data directory; raises `PriceError` for a file with a mistake."""
        own, snapshot = data_dir / PRICE_FILE, data_dir / SNAPSHOT_FILE
        files = read_price_file(_SHIPPED, _OURS) | (read_price_file(own) if own.exists() else {})
        return cls(files, Catalogue.read(snapshot) if snapshot.exists() else Catalogue.bundled())

    @classmethod
    def shipped(cls) -> "PriceBook":
        """Read the price book of this version, without a data directory."""
        return cls(read_price_file(_SHIPPED, _OURS), Catalogue.bundled())

    @cached_property
    def file_names(self) -> frozenset[str]:
        """Models with prices in a file of ours or of the operator."""
        return frozenset(self._files)

    def find(self, name: str) -> Listing:
        """Return the listing of `provider:model`; raises `PriceError` when there is none."""
        provider, colon, model = name.partition(":")
        if not (colon and provider and model):
            raise PriceError(
                f"'{name}' is not a priced model; write provider:model. {self._suggestion(name)}", param="vs"
            )
        own, listed = self._files.get(name), self.catalogue.find(provider, model)
        if own is not None:
            return own if listed is None else LayeredListing(own, listed)
        if listed is None:
            raise PriceError(
                f"There is no price for '{name}' in {self.source}; it is unpriced. {self._suggestion(model)}, "
                f"and {PRICE_FILE} takes a price of your own.",
                param="vs",
            )
        return listed

    def _suggestion(self, model: str) -> str:
        """Suggest a command that lists models with a part of this name."""
        part, names = model.strip(":"), self.names()
        while part and not any(part.lower() in name.lower() for name in names):
            part = part.rpartition("-")[0]
        return f"`turntable prices list {part}` shows what is known" if part else "`turntable prices list` shows some"

    def names(self) -> list[str]:
        """Return every model with a listing, sorted."""
        return sorted({*self._files, *(listing.name for listing in self.catalogue)})

    @property
    def source(self) -> str:
        """Origin of the prices, for every page that shows one."""
        own = sorted({listing.origin for listing in self._files.values()} - {_OURS})
        return " under ".join([*own, self.catalogue.origin])

    def age(self, today: date) -> str:
        """Return the age of the catalogue as a sentence."""
        newest = self.catalogue.newest_day
        if newest is None:
            return f"{self.catalogue.origin} does not say how old it is."
        days = (today - newest).days
        advice = " Run `turntable prices update` where there is a network." if days > OLD_DAYS else ""
        return f"{self.catalogue.origin} names {newest} as its newest day, {days} days ago.{advice}"
