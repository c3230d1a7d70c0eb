"""The cost document: one window's costs with everything they rest on. Tables, JSON, CSV, page and gauges show this.

All amounts are integer nano-USD (a billionth of a dollar). None always means "not known", and a note says why.
"""

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(_Part):
    """A range with its likely value, in nano-USD."""

    low: int
    typical: int
    high: int


class WindowPart(_Part):
    """The window, ISO 8601 in UTC; `until` is exclusive."""

    since: str
    until: str
    days: float


class Line(_Part):
    """One line of the bill: what one group did and cost. Columns that were not asked for are None."""

    model: str | None = None
    tenant: str | None = None
    key: str | None = None
    engine: str | None = None
    day: str | None = None
    requests: int
    """Of clients, answered."""
    unanswered: int
    """Refused or failed."""
    unsettled: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    active_nano_usd: int | None
    """Its part of the time in which engines worked."""
    idle_share_nano_usd: int | None
    """Its part of idle time, unless that is a line of its own."""
    cost_nano_usd: int | None
    elsewhere_nano_usd: dict[str, int | None]
    """What each comparator would have charged, at standard prices and its typical token count."""


class OverheadPart(_Part):
    """What is paid whether clients ask or not: `storage`; `training` spread over an adapter's life; `own work` of the
    gateway, and mirrored requests.
    """

    name: str
    kind: str
    nano_usd: int


class EnginePart(_Part):
    """One engine."""

    name: str
    up_s: float
    busy_s: float
    unpriced_s: float
    bill_nano_usd: int | None
    active_nano_usd: int | None
    idle_nano_usd: int | None
    """All of it, whoever carries it."""
    nano_usd_per_hour: int | None
    energy_kwh: float | None
    carbon_g: float | None


class LevelPart(_Part):
    """The three numbers, per thousand requests: at saturation, within the latency limits, and what it really was."""

    name: str
    """`(all)`, a model, or what stands apart: own work, and idle time when no client came at all."""
    requests: int
    """Answered requests of clients."""
    cost_nano_usd: int | None
    """With idle time, that of days on which nobody came included; those of all but `(all)` add up to it."""
    floor_nano_usd: int | None
    slo_nano_usd: int | None
    realised_nano_usd: int | None
    utilisation_tax_nano_usd: int | None
    """Realised minus floor: what is paid for time in which the engine could have done more. None where more was
    answered than the measured capacity allows, which a note says.
    """


class VariantPart(_Part):
    """What a comparator would have charged for the whole window in one variant, or why that is not known."""

    total: Span | None
    unpriced: str | None = None


class BreakEvenPart(_Part):
    """From how many requests a day on own engines pay against a comparator."""

    requests_per_day: float | None
    share_of_capacity: float | None
    for_good_from: float | None
    steps: list[tuple[int, float, float | None, float | None]]
    """Replicas, USD a day, pays from and up to so many requests a day."""
    reason: str


class ComparatorPart(_Part):
    """One model elsewhere."""

    name: str
    entry: str
    """Of the price data: another name than `name` where the data knows only this one for it."""
    origin: str
    source: str
    checked_on: str | None
    note: str
    token_factor: tuple[float, float, float]
    token_source: str
    variants: dict[str, VariantPart]
    per_request: Span | None
    per_thousand_chars: Span | None
    """None when the lengths of texts are not known: they are never recorded."""
    per_million_tokens: Span | None
    """Over our own count of prompt and output tokens."""
    break_even: BreakEvenPart | None
    unpriced: str | None = None


class PaybackPart(_Part):
    """When making an adapter has paid back, at this window's volume."""

    adapter: str
    comparator: str
    investment_nano_usd: int
    saving_nano_usd_per_day: int | None
    days: float | None
    """None means never, or not known; the reason says which."""
    reason: str


class QualityPart(_Part):
    """What one right answer costs: by model and by what counts as right."""

    model: str
    right: str
    share: float
    per_request_nano_usd: int | None
    per_right_nano_usd: int | None
    note: str


class PricesPart(_Part):
    """The price data."""

    source: str
    on: str
    age: str


class CostDocument(_Part):
    """Everything about one window."""

    window: WindowPart
    group_by: list[str]
    idle_policy: str
    weights: str
    data: list[Line]
    overhead: list[OverheadPart]
    idle_nano_usd: int | None
    """What nobody carries."""
    bill_nano_usd: int | None
    booked_nano_usd: int | None
    """What clients' requests were booked with as they ended, at the price of work of that moment: budgets and cost
    headers go by it. None where rows were deleted.
    """
    engine_up_s: float
    engine_busy_s: float
    engines: list[EnginePart]
    levels: list[LevelPart]
    capacity: str
    comparators: list[ComparatorPart]
    payback: list[PaybackPart]
    quality: list[QualityPart]
    prices: PricesPart
    chars_per_token: float | None
    notes: list[str]
