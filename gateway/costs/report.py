"""The office: makes the cost document of any window, for every output alike."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from gateway.clock import DAY_US, HOUR_US, iso, iso_date, now_us, utc_datetime
from gateway.costs import sections
from gateway.costs.bill import Bill, engine_days, joined, make_bill, overheads
from gateway.costs.comparators import period_of
from gateway.costs.context import CostContext
from gateway.costs.document import CostDocument, EnginePart, Line, OverheadPart, PricesPart, WindowPart
from gateway.costs.evidence import CostEvidenceStore
from gateway.costs.inputs import CostInputs, PricePeriod, gather
from gateway.costs.plan import IdlePolicy, kw_per_card
from gateway.costs.prices.book import PRICE_FILE, SNAPSHOT_FILE, PriceBook
from gateway.costs.weights import Weights
from gateway.errors import InvalidRequestError
from gateway.metering import usage_summary as usage
from gateway.metering.engine_uptime import EngineRun, EngineRuns
from gateway.metering.usage_queries import OWN_KEYS, Sums, added
from gateway.metering.usage_summary import UsageSummary, UsageWindow
from gateway.money import nano

COLUMNS = {"adapter": "model", "tenant": "tenant", "key": "key", "engine": "engine", "day": "day"}
Group = tuple[str, ...]


@dataclass(frozen=True)
class CostQuery:
    """Which costs: the window, by what they are grouped, and what if something were different."""

    since_us: int = 0
    until_us: int | None = None
    group_by: tuple[str, ...] = ("adapter",)
    vs: tuple[str, ...] | None = None
    idle: IdlePolicy | None = None
    usd_per_hour: Decimal | None = None
    """What if an hour of every engine had cost this?"""

    def __post_init__(self) -> None:
        if unknown := set(self.group_by) - COLUMNS.keys():
            raise InvalidRequestError(
                f"Cannot group by '{unknown.pop()}'; choose from {', '.join(sorted(COLUMNS))}.", param="group_by"
            )
        if self.until_us is not None and self.until_us <= self.since_us:
            raise InvalidRequestError("This window ends before it begins; give --until after --since.", param="until")


class CostReports:
    """Answers questions about costs from one database and one data directory; methods block."""

    def __init__(
        self, summary: UsageSummary, runs: EngineRuns, store: CostEvidenceStore, data_dir: Path, *, base: str
    ) -> None:
        self._summary = summary
        self._runs = runs
        self.store = store
        self._data_dir = data_dir
        self._base = base
        self._book: tuple[tuple[float, ...], PriceBook] | None = None

    def document(self, question: CostQuery) -> CostDocument:
        """Everything about one window."""
        facts = gather(self._data_dir, self.store, self._price_book, question.vs, self._span(question)[1])
        reckoning, notes = self.reckon(question, facts)
        policy = question.idle or facts.plan.idle
        span = self._span(question)
        return assemble(question, reckoning, policy, span, notes, self._summary.booked_nano_usd(*span))

    def reckon(self, question: CostQuery, facts: CostInputs) -> tuple[CostContext, list[str]]:
        """Usage and bill of one window."""
        since, until = self._span(question)
        period = period_of(comparator.listing for comparator in facts.comparators)
        runs: Sequence[EngineRun] = self._runs.list()
        notes = []
        if question.usd_per_hour is not None:
            runs = [replace(run, nano_usd_per_hour=nano(question.usd_per_hour)) for run in runs]
            notes.append(f"What if: every engine at ${question.usd_per_hour} per hour.")
        overhead = overheads(facts.plan, since, until)
        policy = question.idle or facts.plan.idle
        odd: list[str] = []
        windows, billed, shares = [], [], []
        for begin, end, weights in self._stretches(since, until, facts.eras):
            window = self._summary.window(begin, end)
            days, odd = engine_days(runs, begin, end, lambda engine, at: backdated(facts, engine, at))
            windows.append(window)
            billed.append(make_bill(days, window, weights, policy=policy, overhead=overhead))
            shares.append(make_bill(days, window, weights, policy=IdlePolicy.PROPORTIONAL))
        whole, bill, shared = usage.joined(windows), joined(billed), joined(shares)
        fine = whole.sums if period == DAY_US else self._summary.hourly(since, until)
        length = Decimal(until - since) / DAY_US
        reckoning = CostContext(facts, whole, bill, shared, fine, period, length, self._base)
        return reckoning, [*notes, *odd, *explained(bill, whole)]

    def _stretches(self, since: int, until: int, eras: Sequence[PricePeriod]) -> Iterator[tuple[int, int, Weights]]:
        """The window cut where other weights came into force; to the hour where there are no rows any more."""
        kept_us = self._summary.kept_from_us()
        begins = [one.since_us if one.since_us >= kept_us else -(-one.since_us // HOUR_US) * HOUR_US for one in eras]
        for one, begin, end in zip(eras, begins, [*begins[1:], until], strict=True):
            if max(begin, since) < min(end, until):
                yield max(begin, since), min(end, until), one.weights

    def unpriced_until_us(self) -> int:
        """When an engine without a stated price was last up; 0 when none ever was."""
        return max((run.seen_us for run in self._runs.list() if run.nano_usd_per_hour is None), default=0)

    def _span(self, question: CostQuery) -> tuple[int, int]:
        """The window as it can be: from the first thing that happened, to now."""
        until = min(question.until_us or now_us(), now_us())
        begins = [self._summary.first_us(), min((run.started_us for run in self._runs.list()), default=None)]
        first = min((begin for begin in begins if begin is not None), default=until)
        since = max(question.since_us, first)
        return (since, until) if since < until else (question.since_us, max(until, question.since_us + 1))

    def _price_book(self) -> PriceBook:
        """The book, read again only when one of its files changed."""
        paths = [self._data_dir / name for name in (PRICE_FILE, SNAPSHOT_FILE)]
        stamp = tuple(path.stat().st_mtime if path.exists() else 0.0 for path in paths)
        if self._book is None or self._book[0] != stamp:
            self._book = (stamp, PriceBook.open(self._data_dir))
        return self._book[1]


def backdated(facts: CostInputs, engine: str, at_us: int) -> int | None:
    """The price of a run that began without one, if the plan states one from that day on."""
    plan = facts.plan.engine_plan(engine)
    if plan is None or plan.since is None or utc_datetime(at_us).date() < plan.since:
        return None
    return facts.plan.nano_usd_per_hour(engine, facts.presets)


def explained(bill: Bill, window: UsageWindow) -> list[str]:
    """Why something is unpriced, or missing."""
    notes = []
    unpriced: dict[str, int] = defaultdict(int)
    for (_, engine), day in bill.engine_days.items():
        unpriced[engine] += day.unpriced_us
    for engine, us in sorted(unpriced.items()):
        if us:
            notes.append(
                f"{engine or 'An engine'} was up {us / HOUR_US:.2f} h without a stated price, so the bill is unpriced; "
                f"name it in costs.toml with `since`, start the gateway with --engine-usd-per-hour, or ask what if."
            )
    if not bill.engine_days:
        notes.append("No engine of this gateway was up in this window, so there is no bill.")
    if not window.sums:
        notes.append("There were no requests in this window.")
    return notes


def assemble(
    question: CostQuery,
    reckoning: CostContext,
    policy: IdlePolicy,
    span: tuple[int, int],
    notes: list[str],
    booked_nano_usd: int | None,
) -> CostDocument:
    """The document of a reckoning."""
    bill, facts, today = reckoning.bill, reckoning.facts, datetime.now(UTC).date()
    overhead_nano = sum(one.nano_usd for one in bill.overhead)
    paid_anyway = [*bill.overhead, *(bill.own_work() if bill.is_priced else ())]
    levels = list(sections.levels(reckoning))
    compared = [sections.compared(reckoning, one, overhead_nano) for one in facts.comparators]
    return CostDocument(
        window=WindowPart(since=iso(span[0]), until=iso(span[1]), days=float(reckoning.days)),
        group_by=list(question.group_by),
        idle_policy=policy,
        weights=_weights_words(facts.eras, span),
        data=lines(question.group_by, reckoning),
        overhead=[OverheadPart(name=o.name, kind=o.kind, nano_usd=o.nano_usd) for o in paid_anyway],
        idle_nano_usd=sum(bill.idle.values()) if bill.is_priced else None,
        bill_nano_usd=bill.total,
        booked_nano_usd=booked_nano_usd,
        engine_up_s=reckoning.up_us / 1e6,
        engine_busy_s=sum(bill.busy_us.values()) / 1e6,
        engines=engines(reckoning),
        levels=levels,
        capacity=facts.capacity_words,
        comparators=[*compared, *(sections.gone(name, reason) for name, reason in facts.missing.items())],
        payback=list(sections.paybacks(reckoning)),
        quality=list(sections.quality(reckoning)),
        prices=_prices(facts.book, today),
        chars_per_token=None if facts.chars_per_token is None else float(facts.chars_per_token),
        notes=[*notes, *sections.impossible(levels)],
    )


def _prices(book: PriceBook | None, today: date) -> PricesPart:
    if book is None:
        return PricesPart(source="nowhere", on=today.isoformat(), age="Nothing was compared.")
    return PricesPart(source=book.source, on=today.isoformat(), age=book.age(today))


def _weights_words(eras: Sequence[PricePeriod], span: tuple[int, int]) -> str:
    """What the weights of a window rest on, the newest first."""
    words = eras[-1].weights.basis
    for later, one in zip(eras[:0:-1], eras[-2::-1], strict=True):
        if later.since_us <= span[0]:
            break
        words += f"; before {iso(later.since_us)[:16]} {one.weights.basis}"
    return words


def lines(group_by: Sequence[str], reckoning: CostContext) -> list[Line]:
    """The bill's lines, sorted by their names."""
    columns = [COLUMNS[column] for column in group_by]

    def group(period: int, period_us: int, engine: str, adapter: str, tenant: str, key: str) -> Group:
        day = iso_date(period * period_us)
        values = {"model": reckoning.name(adapter), "tenant": tenant, "key": key, "engine": engine, "day": day}
        return tuple(values[column] for column in columns)

    def grouped(sums: Iterable[Sums], period_us: int) -> dict[Group, list[Sums]]:
        found: dict[Group, list[Sums]] = defaultdict(list)
        for one in sums:
            found[group(one.period, period_us, one.engine, one.adapter, one.tenant, one.key_id)].append(one)
        return found

    def money(amounts: dict[tuple[int, str, str, str, str], int]) -> dict[Group, int]:
        found: dict[Group, int] = defaultdict(int)
        for (day, engine, adapter, tenant, key), amount in amounts.items():
            if key in OWN_KEYS:
                continue  # a line of its own below
            found[group(day, DAY_US, engine, adapter, tenant, key)] += amount
        return found

    usage, fine = grouped(reckoning.asked, DAY_US), grouped(reckoning.finely_asked, reckoning.period_us)
    active, idle = money(reckoning.bill.active), money(reckoning.bill.idle_share)
    return [
        _line(dict(zip(columns, key, strict=True)), usage.get(key, []), fine.get(key, []), active.get(key, 0),
              idle.get(key, 0), reckoning)
        for key in sorted(usage.keys() | active.keys() | idle.keys())
    ]  # fmt: skip


def _line(
    names: dict[str, str], usage: Sequence[Sums], fine: Sequence[Sums], active: int, idle: int, reckoning: CostContext
) -> Line:
    total = Sums(0, "", "", "", "", 0, 0, 0, 0, 0, 0)
    for one in usage:
        total = added(total, one)
    priced = reckoning.bill.is_priced
    return Line(
        **names,
        requests=total.answered,
        unanswered=total.unanswered,
        unsettled=total.unsettled,
        prompt_tokens=total.prompt_tokens,
        cached_tokens=total.cached_tokens,
        completion_tokens=total.completion_tokens,
        active_nano_usd=active if priced else None,
        idle_share_nano_usd=idle if priced else None,
        cost_nano_usd=active + idle if priced else None,
        elsewhere_nano_usd={
            comparator.listing.name: sections.typical(reckoning, comparator, fine)
            for comparator in reckoning.facts.comparators
        }
        | dict.fromkeys(reckoning.facts.missing),
    )


def engines(reckoning: CostContext) -> list[EnginePart]:
    """Engine by engine."""
    bill, plan = reckoning.bill, reckoning.facts.plan
    found = []
    for name in sorted({engine for _, engine in bill.engine_days}):
        days = [(key, day) for key, day in bill.engine_days.items() if key[1] == name]
        up = sum(day.up_us for _, day in days)
        unpriced = sum(day.unpriced_us for _, day in days)
        total = None if unpriced else sum(day.bill or 0 for _, day in days)
        active = sum(amount for (_, engine, *_), amount in bill.active.items() if engine == name)
        stated = plan.engine_plan(name)
        kw = None if stated is None else kw_per_card(stated, reckoning.facts.presets)
        kwh = None if kw is None or stated is None else float(kw * stated.count * up / HOUR_US)
        grams = None if stated is None else stated.g_co2_per_kwh
        found.append(
            EnginePart(
                name=name or "(unnamed)",
                up_s=up / 1e6,
                busy_s=sum(us for (_, engine), us in bill.busy_us.items() if engine == name) / 1e6,
                unpriced_s=unpriced / 1e6,
                bill_nano_usd=total,
                active_nano_usd=None if total is None else active,
                idle_nano_usd=None if total is None else total - active,
                nano_usd_per_hour=None if total is None or not up else round(Decimal(total) * HOUR_US / up),
                energy_kwh=kwh,
                carbon_g=None if kwh is None or grams is None else kwh * float(grams),
            )
        )
    return found
