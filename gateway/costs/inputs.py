"""Cost inputs: everything that one cost document is computed from, read once; nothing is read after this."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from gateway.clock import DAY_US, HOUR_US, now_us, utc_datetime
from gateway.costs.comparators import Comparator, factor_for, period_of, read_factors
from gateway.costs.evidence import (
    CapacityFact,
    ComparisonFact,
    CostEvidence,
    CostEvidenceStore,
    EvidenceKind,
    WeightsFact,
)
from gateway.costs.plan import CostPlan, IdlePolicy, Preset, read_plan, read_presets
from gateway.costs.prices.book import PRICE_FILE, SNAPSHOT_FILE, PriceBook
from gateway.costs.prices.rates import PriceError
from gateway.costs.prices.update import DEFAULT_COMPARISON
from gateway.costs.request_price import Weights
from gateway.errors import InvalidRequestError
from gateway.metering.engine_uptime import EngineRun, EngineRuns
from gateway.metering.usage_queries import UsageSums
from gateway.metering.usage_summary import UsageSummary, UsageWindow, join_windows

COLUMNS = {"adapter": "model", "tenant": "tenant", "key": "key", "engine": "engine", "day": "day"}
"""What costs can be grouped by, and the field of a document's line that holds its value."""


@dataclass(frozen=True)
class CostQuery:
    """Parameters of a cost document: window in microseconds since the epoch, grouping, comparators, what-if values."""

    since_us: int = 0
    until_us: int | None = None
    group_by: tuple[str, ...] = ("adapter",)
    vs: tuple[str, ...] | None = None
    """Comparators as `provider:model`; None for `DEFAULT_COMPARISON`, empty for none."""
    idle: IdlePolicy | None = None
    """Overrides the cost plan's policy."""
    usd_per_hour: Decimal | None = None
    """Overrides the price of an hour of every engine."""

    def __post_init__(self) -> None:
        if unknown := set(self.group_by) - COLUMNS.keys():
            raise InvalidRequestError(
                f"Cannot group by '{unknown.pop()}'; choose from {', '.join(sorted(COLUMNS))}.", param="group_by"
            )
        if self.until_us is not None and self.until_us <= self.since_us:
            raise InvalidRequestError("This window ends before it begins; give --until after --since.", param="until")


@dataclass(frozen=True)
class WeightsPeriod:
    """Token weights and the time from which the bill uses them: never before they were measured."""

    since_us: int
    weights: Weights
    chars_per_token: Decimal | None = None


@dataclass(frozen=True)
class UsagePeriod:
    """Usage of a part of the window in which the same weights are in force."""

    since_us: int
    until_us: int
    weights: Weights
    usage: UsageWindow


@dataclass(frozen=True)
class CostInputs:
    """The query and everything read for it."""

    query: CostQuery
    base: str
    """Name under which the base model is served."""
    since_us: int
    until_us: int
    """The window, cut to where there is anything to bill."""
    today: date
    plan: CostPlan
    presets: dict[str, Preset]
    weights: Sequence[WeightsPeriod]
    """Oldest first; the first holds from the beginning, the last at the end of the window."""
    capacity: CapacityFact | None
    capacity_basis: str
    quality: ComparisonFact | None
    price_book: PriceBook | None
    """None when nothing is compared: reading it takes half a second and 40 MB."""
    comparators: Sequence[Comparator]
    unpriced_comparators: dict[str, str]
    """Default comparators without a price in the price book, with the reason."""
    runs: Sequence[EngineRun]
    periods: Sequence[UsagePeriod]
    usage: UsageWindow
    """The periods joined: usage of the whole window, by day."""
    priced_usage: Sequence[UsageSums]
    """The same usage in periods of `price_period_us`, as short as the comparators' prices need."""
    price_period_us: int
    booked_nano_usd: int | None
    """Costs of clients' requests as booked on the ledger; None where rows were deleted."""

    @property
    def current_weights(self) -> Weights:
        """Weights in force at the end of the window."""
        return self.weights[-1].weights

    @property
    def chars_per_token(self) -> Decimal | None:
        """Measured length of our tokens in text; None when it was not measured."""
        return self.weights[-1].chars_per_token

    @property
    def idle_policy(self) -> IdlePolicy:
        """The query's idle policy, else the cost plan's."""
        return self.query.idle or self.plan.idle

    @property
    def days(self) -> Decimal:
        """Length of the window."""
        return Decimal(self.until_us - self.since_us) / DAY_US

    def backdated_nano_usd_per_hour(self, engine: str, at_us: int) -> int | None:
        """Return the price of an engine run that was recorded without one, if the cost plan states it `since` then."""
        plan = self.plan.engine_plan(engine)
        if plan is None or plan.since is None or utc_datetime(at_us).date() < plan.since:
            return None
        return self.plan.nano_usd_per_hour(engine, self.presets)


class CostInputReader:
    """Reads cost inputs from one database and one data directory; methods block."""

    def __init__(
        self, summary: UsageSummary, runs: EngineRuns, store: CostEvidenceStore, data_dir: Path, *, base: str
    ) -> None:
        self._summary = summary
        self._runs = runs
        self._store = store
        self._data_dir = data_dir
        self._base = base
        self._price_book: tuple[tuple[float, ...], PriceBook] | None = None

    def read(self, query: CostQuery) -> CostInputs:
        """Read everything for one query.

        Raises `PlanError` and `PriceError` for a mistake in a file, and `PriceError` for a named comparator without a
        price. Weights that were measured after the end of the window do not count, so a closed bill never changes.
        """
        now = now_us()
        runs = self._runs.list()
        since_us, until_us = self._window(query, runs, now)
        weights = [period for period in read_weights_periods(self._store) if period.since_us < until_us]
        price_book = None if query.vs == () else self._open_price_book()
        comparators, unpriced = _comparators(query.vs, price_book, weights[-1].chars_per_token)
        plan, presets = read_plan(self._data_dir), read_presets()
        capacity, quality = self._store.newest(EvidenceKind.CAPACITY), self._store.newest(EvidenceKind.QUALITY)
        periods = list(self._periods(since_us, until_us, weights))
        usage = join_windows([period.usage for period in periods])
        price_period_us = period_of(comparator.listing for comparator in comparators)
        return CostInputs(
            query=query,
            base=self._base,
            since_us=since_us,
            until_us=until_us,
            today=datetime.now(UTC).date(),
            plan=plan,
            presets=presets,
            weights=weights,
            capacity=None if capacity is None else CapacityFact.model_validate(capacity.document),
            capacity_basis=_capacity_basis(capacity),
            quality=None if quality is None else ComparisonFact.model_validate(quality.document),
            price_book=price_book,
            comparators=comparators,
            unpriced_comparators=unpriced,
            runs=runs,
            periods=periods,
            usage=usage,
            priced_usage=usage.sums if price_period_us == DAY_US else self._summary.hourly(since_us, until_us),
            price_period_us=price_period_us,
            booked_nano_usd=self._summary.booked_nano_usd(since_us, until_us),
        )

    def _window(self, query: CostQuery, runs: Sequence[EngineRun], now: int) -> tuple[int, int]:
        """Cut the query's window to what can be billed: from the first request or engine run until now."""
        until = min(query.until_us or now, now)
        begins = [self._summary.first_us(), min((run.started_us for run in runs), default=None)]
        first = min((begin for begin in begins if begin is not None), default=until)
        since = max(query.since_us, first)
        return (since, until) if since < until else (query.since_us, max(until, query.since_us + 1))

    def _periods(self, since_us: int, until_us: int, weights: Sequence[WeightsPeriod]) -> Iterator[UsagePeriod]:
        """Cut the window where the weights change, at whole hours where raw rows were pruned, and read its usage."""
        kept_us = self._summary.kept_from_us()
        begins = [
            period.since_us if period.since_us >= kept_us else -(-period.since_us // HOUR_US) * HOUR_US
            for period in weights
        ]
        for period, begin, end in zip(weights, begins, [*begins[1:], until_us], strict=True):
            low, high = max(begin, since_us), min(end, until_us)
            if low < high:
                yield UsagePeriod(low, high, period.weights, self._summary.window(low, high))

    def _open_price_book(self) -> PriceBook:
        """Return the price book, read again only when one of its files changed."""
        paths = [self._data_dir / name for name in (PRICE_FILE, SNAPSHOT_FILE)]
        stamp = tuple(path.stat().st_mtime if path.exists() else 0.0 for path in paths)
        if self._price_book is None or self._price_book[0] != stamp:
            self._price_book = (stamp, PriceBook.open(self._data_dir))
        return self._price_book[1]


def read_weights_periods(store: CostEvidenceStore) -> list[WeightsPeriod]:
    """Return all weights that were ever in force, oldest first, beginning with the stated ones."""
    return [WeightsPeriod(0, Weights()), *map(_weights_period, store.all(EvidenceKind.WEIGHTS))]


def read_weights(store: CostEvidenceStore) -> Weights:
    """Return the weights in force now."""
    found = store.newest(EvidenceKind.WEIGHTS)
    return Weights() if found is None else _weights_period(found).weights


def _weights_period(found: CostEvidence) -> WeightsPeriod:
    fact = WeightsFact.model_validate(found.document)
    basis = (
        f"measured on {found.made_on} with {fact.batches} batches of {fact.concurrency} requests at a time: "
        f"{fact.prompt_ps / 1e6:.3g}, {fact.cached_ps / 1e6:.3g} and {fact.output_ps / 1e6:.3g} us of engine time per "
        f"uncached, cached and generated token; error {fact.error_share:.1%} of a batch's time"
    )
    chars = None if fact.chars_per_token is None else Decimal(str(fact.chars_per_token))
    weights = Weights(fact.prompt_ps, fact.cached_ps, fact.output_ps, is_measured=True, basis=basis)
    return WeightsPeriod(found.made_us, weights, chars)


def _comparators(
    vs: Sequence[str] | None, price_book: PriceBook | None, chars_per_token: Decimal | None
) -> tuple[list[Comparator], dict[str, str]]:
    """Find the comparators' prices; defaults without a price are returned with the reason, named ones raise."""
    comparators: list[Comparator] = []
    unpriced: dict[str, str] = {}
    if price_book is None:
        return comparators, unpriced
    factors = read_factors()
    for name in DEFAULT_COMPARISON if vs is None else dict.fromkeys(vs):
        try:
            listing = price_book.find(name)
        except PriceError as error:
            if vs is not None:
                raise
            unpriced[name] = str(error)
            continue
        comparators.append(Comparator(listing, factor_for(name, factors).relative_to(chars_per_token)))
    return comparators, unpriced


def _capacity_basis(found: CostEvidence | None) -> str:
    if found is None:
        return (
            "not measured: run `turntable loadtest capacity --json capacity.json`, "
            "then `turntable costs record capacity.json`"
        )
    fact = CapacityFact.model_validate(found.document)
    basis = f"measured on {found.made_on}: {fact.conclusion.rstrip('.')}"
    if fact.provenance is not None and fact.provenance.url:
        machine = f", machine {fact.provenance.machine}" if fact.provenance.machine else ""
        basis += f" ({', '.join(fact.provenance.models)} at {fact.provenance.url}{machine})"
    return basis if fact.despite is None else f"{basis}; counts despite: {fact.despite}"
