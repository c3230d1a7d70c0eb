"""A listing: everything known about the price of one model, and where from; what has no price says why."""

from datetime import date, datetime
from typing import Protocol

from gateway.errors import InvalidRequestError
from gateway.prices.rates import Tier


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

    def tiers(self, at: datetime, *, batch: bool = False) -> tuple[Tier, ...]:
        """The rates at a moment by length of prompt; raises `PriceError` when there are none."""
        ...

    def changes(self) -> tuple[date, ...]:
        """The days on which the price changes, as far as they are known."""
        ...
