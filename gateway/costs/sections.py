"""Sections of the cost document, each a pure function of the cost context."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import reduce

from gateway.clock import DAY_US, HOUR_US, iso, iso_date
from gateway.costs.bill import BillKey, EngineDayKey
from gateway.costs.breakeven import break_even, payback_days
from gateway.costs.comparators import VARIANTS, Comparator, CostRange, per
from gateway.costs.context import UNUSED, CostContext, answered
from gateway.costs.document import (
    BreakEvenPart,
    ComparatorPart,
    EnginePart,
    LevelPart,
    Line,
    OverheadPart,
    PaybackPart,
    PricesPart,
    QualityPart,
    Span,
    VariantPart,
)
from gateway.costs.evidence import QualityFact
from gateway.costs.inputs import COLUMNS, CostInputs
from gateway.costs.plan import AdapterPlan, kw_per_card
from gateway.costs.prices.rates import PriceError
from gateway.metering.usage_queries import OWN_KEYS, UsageSums, add_sums
from gateway.money import NANO

_THOUSAND = 1000
_NO_USAGE = UsageSums(0, "", "", "", "", 0, 0, 0, 0, 0, 0)
Group = tuple[str, ...]
"""Values of the columns that a line is grouped by."""


def lines(context: CostContext) -> list[Line]:
    """Return the allocated lines of the bill, sorted by their groups."""
    columns = [COLUMNS[column] for column in context.inputs.query.group_by]

    def group(period: int, period_us: int, engine: str, adapter: str, tenant: str, key: str) -> Group:
        day, model = iso_date(period * period_us), context.model_name(adapter)
        values = {"model": model, "tenant": tenant, "key": key, "engine": engine, "day": day}
        return tuple(values[column] for column in columns)

    def grouped(sums: Iterable[UsageSums], period_us: int) -> dict[Group, list[UsageSums]]:
        found: dict[Group, list[UsageSums]] = defaultdict(list)
        for each in sums:
            found[group(each.period, period_us, each.engine, each.adapter, each.tenant, each.key_id)].append(each)
        return found

    def totals(amounts: Mapping[BillKey, int]) -> dict[Group, int]:
        found: dict[Group, int] = defaultdict(int)
        for (day, engine, adapter, tenant, key), amount in amounts.items():
            if key not in OWN_KEYS:  # these are overhead of the kind `own work`
                found[group(day, DAY_US, engine, adapter, tenant, key)] += amount
        return found

    usage = grouped(context.client_usage, DAY_US)
    priced_usage = grouped(context.priced_client_usage, context.inputs.price_period_us)
    active, idle = totals(context.bill.active), totals(context.bill.idle_share)
    return [
        _line(
            context,
            dict(zip(columns, found, strict=True)),
            usage.get(found, []),
            priced_usage.get(found, []),
            active.get(found, 0),
            idle.get(found, 0),
        )
        for found in sorted(usage.keys() | active.keys() | idle.keys())
    ]


def _line(
    context: CostContext,
    names: Mapping[str, str],
    usage: Sequence[UsageSums],
    priced_usage: Sequence[UsageSums],
    active: int,
    idle: int,
) -> Line:
    total, is_priced = reduce(add_sums, usage, _NO_USAGE), context.bill.is_priced
    elsewhere = {
        comparator.listing.name: _typical(context, comparator, priced_usage)
        for comparator in context.inputs.comparators
    }
    return Line(
        **names,
        requests=total.answered,
        unanswered=total.unanswered,
        unsettled=total.unsettled,
        prompt_tokens=total.prompt_tokens,
        cached_tokens=total.cached_tokens,
        completion_tokens=total.completion_tokens,
        active_nano_usd=active if is_priced else None,
        idle_share_nano_usd=idle if is_priced else None,
        cost_nano_usd=active + idle if is_priced else None,
        elsewhere_nano_usd=elsewhere | dict.fromkeys(context.inputs.unpriced_comparators),
    )


def overhead(context: CostContext) -> list[OverheadPart]:
    """Return storage, training, and the gateway's own work."""
    bill = context.bill
    paid = [*bill.overhead, *(bill.own_work() if bill.is_priced else ())]
    return [OverheadPart(name=item.name, kind=item.kind, nano_usd=item.nano_usd) for item in paid]


def engines(context: CostContext) -> list[EnginePart]:
    """Return uptime, busy time, cost and energy of every engine."""
    return [_engine(context, name) for name in sorted({engine for _, engine in context.bill.engine_days})]


def _engine(context: CostContext, name: str) -> EnginePart:
    bill = context.bill
    days = [day for (_, engine), day in bill.engine_days.items() if engine == name]
    up, unpriced = sum(day.up_us for day in days), sum(day.unpriced_us for day in days)
    cost = None if unpriced else sum(day.bill or 0 for day in days)
    active = sum(amount for (_, engine, *_), amount in bill.active.items() if engine == name)
    energy_kwh, carbon_g = _energy(context.inputs, name, up)
    return EnginePart(
        name=name or "(unnamed)",
        up_s=up / 1e6,
        busy_s=_of_engine(bill.busy_us, name) / 1e6,
        unpriced_s=unpriced / 1e6,
        bill_nano_usd=cost,
        active_nano_usd=None if cost is None else active,
        idle_nano_usd=None if cost is None else cost - active,
        nano_usd_per_hour=None if cost is None or not up else round(Decimal(cost) * HOUR_US / up),
        energy_kwh=energy_kwh,
        carbon_g=carbon_g,
    )


def _of_engine(amounts: Mapping[EngineDayKey, int], name: str) -> int:
    return sum(amount for (_, engine), amount in amounts.items() if engine == name)


def _energy(inputs: CostInputs, engine: str, up_us: int) -> tuple[float | None, float | None]:
    """Return kWh and grams of CO2, each None where the cost plan does not state it."""
    plan = inputs.plan.engine_plan(engine)
    kw = None if plan is None else kw_per_card(plan, inputs.presets)
    if plan is None or kw is None:
        return None, None
    kwh = float(kw * plan.count * up_us / HOUR_US)
    return kwh, None if plan.g_co2_per_kwh is None else kwh * float(plan.g_co2_per_kwh)


def levels(context: CostContext) -> Iterator[LevelPart]:
    """Return cost per thousand requests: of all, then by model and of what no client asked for, which add up to it."""
    capacity, costs, own = context.inputs.capacity, context.cost_by_adapter, context.own_labels
    slo = context.nano_usd_per_work(capacity.slo_per_s) if capacity else None
    groups = [("(all)", context.client_usage, context.bill.engines_nano_usd)]
    adapters = sorted({*costs, *(sums.adapter for sums in context.client_usage)} - own - {UNUSED})
    groups += [(context.model_name(adapter), context.usage_of(adapter), costs.get(adapter, 0)) for adapter in adapters]
    groups += [(name, [], costs[name]) for name in (*sorted(own), UNUSED) if name in costs]
    for name, sums, group_cost in groups:
        requests, work = answered(sums), context.work(sums)
        cost = group_cost if context.bill.is_priced else None
        if not requests and not cost:
            continue
        floor, within = (_per_thousand(rate, work, requests) for rate in (context.floor_per_work, slo))
        realised = per(cost, requests, _THOUSAND)
        yield LevelPart(
            name=name,
            requests=requests,
            cost_nano_usd=cost,
            floor_nano_usd=floor,
            slo_nano_usd=within,
            realised_nano_usd=realised,
            utilisation_tax_nano_usd=None
            if realised is None or floor is None or realised < floor
            else realised - floor,
        )


def capacity_notes(levels: Sequence[LevelPart]) -> Iterator[str]:
    """Note that requests cost less than on a saturated engine: then the measured capacity is not this engine's."""
    whole = levels[0] if levels else None
    if whole and whole.realised_nano_usd is not None and whole.realised_nano_usd < (whole.floor_nano_usd or 0):
        yield (
            "More was answered here than the measured capacity allows, so that is not the capacity of this engine, or "
            "not of such requests: measure it again with `turntable loadtest capacity`."
        )


def _per_thousand(nano_usd_per_work: Decimal | None, work: int, requests: int) -> int | None:
    if nano_usd_per_work is None or not requests:
        return None
    return round(nano_usd_per_work * work * _THOUSAND / requests)


def comparators(context: CostContext) -> list[ComparatorPart]:
    """Return what every comparator would have charged for the window, and from which volume own engines pay."""
    found = [_comparator(context, comparator) for comparator in context.inputs.comparators]
    return [*found, *(_unpriced(name, reason) for name, reason in context.inputs.unpriced_comparators.items())]


def _comparator(context: CostContext, comparator: Comparator) -> ComparatorPart:
    listing, factor, usage = comparator.listing, comparator.factor, context.priced_client_usage
    variants = {name: _variant(context, comparator, name) for name in VARIANTS}
    total, requests = variants["standard"].total, answered(usage)
    tokens = sum(sums.prompt_tokens + sums.completion_tokens for sums in usage)
    chars = context.inputs.chars_per_token
    return ComparatorPart(
        name=listing.name,
        entry=listing.entry,
        origin=listing.origin,
        source=listing.source,
        checked_on=None if listing.checked_on is None else listing.checked_on.isoformat(),
        note=listing.note,
        token_factor=(float(factor.low), float(factor.typical), float(factor.high)),
        token_source=f"{factor.source} ({factor.checked_on})",
        variants=variants,
        per_request=_span_per(total, requests, 1),
        per_thousand_chars=None if chars is None else _span_per(total, float(tokens * chars), _THOUSAND),
        per_million_tokens=_span_per(total, tokens, 10**6),
        break_even=_break_even(context, total, requests),
        unpriced=variants["standard"].unpriced,
    )


def _unpriced(name: str, reason: str) -> ComparatorPart:
    """Return a default comparator that the price data no longer lists."""
    return ComparatorPart(
        name=name,
        entry="",
        origin="",
        source="",
        checked_on=None,
        note="",
        token_factor=(1.0, 1.0, 1.0),
        token_source="",
        variants={variant: VariantPart(total=None, unpriced=reason) for variant in VARIANTS},
        per_request=None,
        per_thousand_chars=None,
        per_million_tokens=None,
        break_even=None,
        unpriced=reason,
    )


def _variant(context: CostContext, comparator: Comparator, name: str) -> VariantPart:
    try:
        charges = comparator.charges(context.priced_client_usage, name, context.inputs.price_period_us)
    except PriceError as error:
        return VariantPart(total=None, unpriced=str(error))
    return VariantPart(total=_span(charges))


def _typical(context: CostContext, comparator: Comparator, sums: Sequence[UsageSums]) -> int | None:
    """Return the comparator's standard charge at its typical token count; None when it has no price."""
    try:
        return comparator.typical(sums, context.inputs.price_period_us)
    except PriceError:
        return None


def _break_even(context: CostContext, total: Span | None, requests: int) -> BreakEvenPart | None:
    fleet = context.fleet(context.client_usage, sum(item.nano_usd for item in context.bill.overhead))
    if fleet is None or total is None or not requests:
        return None
    found = break_even(fleet, Decimal(total.typical) / NANO / requests)
    return BreakEvenPart(
        requests_per_day=_number(found.requests_per_day),
        share_of_capacity=_number(found.share_of_capacity),
        for_good_from=_number(found.for_good_from),
        steps=[(s.replicas, float(s.usd_per_day), _number(s.pays_from), _number(s.up_to)) for s in found.steps],
        reason=found.reason,
    )


def paybacks(context: CostContext) -> list[PaybackPart]:
    """Return when each adapter with a training cost has paid back, against every comparator."""
    return [
        _payback(context, plan, comparator)
        for plan in context.inputs.plan.adapter
        for comparator in context.inputs.comparators
    ]


def _payback(context: CostContext, plan: AdapterPlan, comparator: Comparator) -> PaybackPart:
    usage = [sums for sums in context.priced_client_usage if sums.adapter == plan.name]
    elsewhere = _typical(context, comparator, usage)
    days, saving, reason = None, None, ""
    if not answered(usage):
        reason = "never at this volume: it had no requests in this window"
    elif not context.bill.is_priced or elsewhere is None:
        reason = "not known: the engine or the comparator has no price"
    else:
        saving = round((elsewhere - context.full_cost_by_adapter.get(plan.name, 0)) / context.inputs.days)
        found = payback_days(plan.investment_usd, Decimal(saving) / NANO)
        days = None if found is None else float(round(found, 1))
        reason = "" if found is not None else "never: here it costs as much as there, or more"
    return PaybackPart(
        adapter=plan.name,
        comparator=comparator.listing.name,
        investment_nano_usd=int(plan.investment_usd * NANO),
        saving_nano_usd_per_day=saving,
        days=days,
        reason=reason,
    )


def quality(context: CostContext) -> list[QualityPart]:
    """Return the cost of a right answer here, and its lower bound elsewhere, on the task that was compared last."""
    fact = context.inputs.quality
    if fact is None:
        return []
    here = [part for model, score in fact.models.items() for part in _quality_here(context, model, score)]
    best = max(fact.models.values(), key=lambda score: sum(rate.hits for rate in score.rates.values()))
    return [*here, *(_quality_elsewhere(context, best, comparator) for comparator in context.inputs.comparators)]


def _quality_here(context: CostContext, model: str, score: QualityFact) -> Iterator[QualityPart]:
    price = context.realised_per_work
    work = context.inputs.current_weights.work(score.prompt_tokens, score.cached_tokens, score.completion_tokens)
    per_request = per(None if price is None else round(price * work), score.requests, 1)
    for right, rate in score.rates.items():
        note = "" if rate.hits else "never right, so no price buys a right answer"
        if price is None:
            note = "the engine has no price in this window, or had no requests"
        share = rate.hits / rate.of
        yield QualityPart(
            model=model,
            right=right,
            share=share,
            per_request_nano_usd=per_request,
            per_right_nano_usd=None if per_request is None or not rate.hits else round(per_request / share),
            note=note,
        )


def _quality_elsewhere(context: CostContext, best: QualityFact, comparator: Comparator) -> QualityPart:
    period = max((sums.period for sums in context.priced_client_usage), default=0)
    task = UsageSums(period, "", "", "", "", 0, best.requests, 0, best.prompt_tokens, 0, best.completion_tokens)
    cost = per(_typical(context, comparator, [task]), best.requests, 1)
    return QualityPart(
        model=comparator.listing.name,
        right="any",
        share=1.0,
        per_request_nano_usd=cost,
        per_right_nano_usd=cost,
        note="not evaluated here: if every one of its answers were right, a right one would cost this at least",
    )


def prices(inputs: CostInputs) -> PricesPart:
    """Return where the comparators' prices come from, and how old they are."""
    book, today = inputs.price_book, inputs.today
    if book is None:
        return PricesPart(source="nowhere", on=today.isoformat(), age="Nothing was compared.")
    return PricesPart(source=book.source, on=today.isoformat(), age=book.age(today))


def weights_basis(inputs: CostInputs) -> str:
    """Say what the weights of the window are based on, newest first."""
    periods = inputs.weights
    basis = periods[-1].weights.basis
    for later, earlier in zip(periods[:0:-1], periods[-2::-1], strict=True):
        if later.since_us <= inputs.since_us:
            break
        basis += f"; before {iso(later.since_us)[:16]} {earlier.weights.basis}"
    return basis


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def _span(found: CostRange) -> Span:
    return Span(low=found.low, typical=found.typical, high=found.high)


def _span_per(total: Span | None, count: float, unit: int) -> Span | None:
    if total is None or not count:
        return None
    low, typical, high = (per(amount, count, unit) or 0 for amount in (total.low, total.typical, total.high))
    return Span(low=low, typical=typical, high=high)
