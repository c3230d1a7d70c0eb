"""The cost document: the costs of one window and their basis, as rendered by tables, JSON, CSV, page and gauges.

All amounts are integer nano-USD (10^-9 dollars). None always means "not known", and a note says why.
"""

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(_Part):
    """A range with its typical value, in nano-USD."""

    low: int
    typical: int
    high: int


class WindowPart(_Part):
    """The window, ISO 8601 in UTC; `until` is exclusive."""

    since: str
    until: str
    days: float


class Line(_Part):
    """One allocated line of the bill; columns that costs are not grouped by are None."""

    model: str | None = None
    tenant: str | None = None
    key: str | None = None
    engine: str | None = None
    day: str | None = None
    requests: int
    """Answered requests of clients."""
    unanswered: int
    """Refused or failed requests."""
    unsettled: int
    """Requests that still run, or were interrupted."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    active_nano_usd: int | None
    """Share of busy engine time."""
    idle_share_nano_usd: int | None
    """Share of idle engine time, unless idle time is a line of its own."""
    cost_nano_usd: int | None
    elsewhere_nano_usd: dict[str, int | None]
    """Charge of each comparator at its standard price and typical token count."""


class OverheadPart(_Part):
    """A cost that no client's request causes: `storage`; `training`, spread over an adapter's life; `own work`: probes
    of the gateway and shadow requests.
    """

    name: str
    kind: str
    nano_usd: int


class EnginePart(_Part):
    """Time, cost and energy of one engine."""

    name: str
    up_s: float
    busy_s: float
    unpriced_s: float
    bill_nano_usd: int | None
    active_nano_usd: int | None
    idle_nano_usd: int | None
    """Cost of all idle time, whoever carries it."""
    nano_usd_per_hour: int | None
    energy_kwh: float | None
    carbon_g: float | None


class LevelPart(_Part):
    """Cost per thousand requests: of a saturated engine, within the latency limits, and as realised."""

    name: str
    """`(all)`, a model, own work, or idle time of a window without clients."""
    requests: int
    """Answered requests of clients."""
    cost_nano_usd: int | None
    """Idle time included, also of days without clients; the costs of the other levels add up to that of `(all)`."""
    floor_nano_usd: int | None
    slo_nano_usd: int | None
    realised_nano_usd: int | None
    utilisation_tax_nano_usd: int | None
    """Realised minus floor: the cost of idle and half-used engine time. None where more was answered than the measured
    capacity allows, which a note says.
    """


class VariantPart(_Part):
    """Charge of a comparator for the whole window in one variant, or the reason why it has no price."""

    total: Span | None
    unpriced: str | None = None


class BreakEvenPart(_Part):
    """Break-even volume of own engines against a comparator."""

    requests_per_day: float | None
    share_of_capacity: float | None
    for_good_from: float | None
    steps: list[tuple[int, float, float | None, float | None]]
    """Replicas, USD per day, and the requests per day from which and up to which they pay."""
    reason: str


class ComparatorPart(_Part):
    """A model of another provider."""

    name: str
    entry: str
    """Entry of the price data; differs from `name` where the data only lists a similar name."""
    origin: str
    source: str
    checked_on: str | None
    note: str
    token_factor: tuple[float, float, float]
    token_source: str
    variants: dict[str, VariantPart]
    per_request: Span | None
    per_thousand_chars: Span | None
    """None when the characters per token were not measured: lengths of texts are never recorded."""
    per_million_tokens: Span | None
    """Over our own count of prompt and output tokens."""
    break_even: BreakEvenPart | None
    unpriced: str | None = None


class PaybackPart(_Part):
    """Payback time of an adapter's training, at this window's volume."""

    adapter: str
    comparator: str
    investment_nano_usd: int
    saving_nano_usd_per_day: int | None
    days: float | None
    """None means never or unknown; `reason` says which."""
    reason: str


class QualityPart(_Part):
    """Cost of a right answer, by model and by the metric that counts right answers."""

    model: str
    right: str
    share: float
    per_request_nano_usd: int | None
    per_right_nano_usd: int | None
    note: str


class PricesPart(_Part):
    """Source and age of the price data."""

    source: str
    on: str
    age: str


class CostDocument(_Part):
    """All costs of one window."""

    window: WindowPart
    group_by: list[str]
    idle_policy: str
    weights: str
    data: list[Line]
    overhead: list[OverheadPart]
    idle_nano_usd: int | None
    """Idle time that no line carries."""
    bill_nano_usd: int | None
    booked_nano_usd: int | None
    """Costs booked for clients' requests as they ended, at the work price of that moment, by which budgets and cost
    headers go. None where rows were deleted.
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
