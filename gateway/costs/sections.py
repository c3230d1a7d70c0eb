"""The parts of the document that compare: the three numbers, models elsewhere, payback, the price of right answers."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from gateway.costs.breakeven import BreakEven, break_even, payback_days
from gateway.costs.comparators import VARIANTS, Comparator, Range, per
from gateway.costs.context import UNUSED, CostContext, answered
from gateway.costs.document import (
    BreakEvenPart,
    ComparatorPart,
    LevelPart,
    PaybackPart,
    QualityPart,
    Span,
    VariantPart,
)
from gateway.costs.prices.rates import PriceError
from gateway.metering.usage_queries import Sums
from gateway.money import NANO

_THOUSAND = 1000


def levels(reckoning: CostContext) -> Iterator[LevelPart]:
    """All requests together; then model by model, and what no client asked for: their costs add up to that of all."""
    capacity, costs, own = reckoning.facts.capacity, reckoning.by_adapter, reckoning.own_labels
    slo = reckoning.nano_per_work(capacity.slo_per_s) if capacity else None
    groups = [("(all)", reckoning.asked, reckoning.engines_nano)]
    adapters = sorted({*costs, *(one.adapter for one in reckoning.asked)} - own - {UNUSED})
    groups += [(reckoning.name(one), reckoning.of_model(one), costs.get(one, 0)) for one in adapters]
    groups += [(name, [], costs[name]) for name in (*sorted(own), UNUSED) if name in costs]
    for name, sums, cost in groups:
        requests, work = answered(sums), reckoning.work(sums)
        cost = cost if reckoning.bill.is_priced else None
        if not requests and not cost:
            continue
        floor, within = (_per_thousand(rate, work, requests) for rate in (reckoning.floor_per_work, slo))
        realised = per(cost, requests, _THOUSAND)
        tax = None if realised is None or floor is None or realised < floor else realised - floor
        yield LevelPart(
            name=name,
            requests=requests,
            cost_nano_usd=cost,
            floor_nano_usd=floor,
            slo_nano_usd=within,
            realised_nano_usd=realised,
            utilisation_tax_nano_usd=tax,
        )


def impossible(levels: Sequence[LevelPart]) -> Iterator[str]:
    """A note where requests cost less than a saturated engine's would: then the capacity is not this engine's."""
    whole = levels[0] if levels else None
    if whole and whole.realised_nano_usd is not None and whole.realised_nano_usd < (whole.floor_nano_usd or 0):
        yield (
            "More was answered here than the measured capacity allows, so that is not the capacity of this engine, or "
            "not of such requests: measure it again with `turntable loadtest capacity`."
        )


def _per_thousand(nano_per_work: Decimal | None, work: int, requests: int) -> int | None:
    return None if nano_per_work is None or not requests else round(nano_per_work * work * _THOUSAND / requests)


def compared(reckoning: CostContext, comparator: Comparator, overhead_nano: int) -> ComparatorPart:
    """Everything about one comparator over the whole window."""
    listing, factor = comparator.listing, comparator.factor
    variants = {name: _variant(reckoning, comparator, name) for name in VARIANTS}
    total, requests = variants["standard"].total, answered(reckoning.finely_asked)
    tokens = sum(one.prompt_tokens + one.completion_tokens for one in reckoning.finely_asked)
    chars = reckoning.facts.chars_per_token
    fleet = reckoning.fleet(reckoning.asked, overhead_nano)
    found = None
    if fleet is not None and total is not None and requests:
        found = _break_even_part(break_even(fleet, Decimal(total.typical) / NANO / requests))
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
        break_even=found,
        unpriced=variants["standard"].unpriced,
    )


def gone(name: str, reason: str) -> ComparatorPart:
    """A comparator that the price data does not know any more."""
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


def _variant(reckoning: CostContext, comparator: Comparator, name: str) -> VariantPart:
    try:
        return VariantPart(total=_span(comparator.charges(reckoning.finely_asked, name, reckoning.period_us)))
    except PriceError as error:
        return VariantPart(total=None, unpriced=str(error))


def typical(reckoning: CostContext, comparator: Comparator, sums: Sequence[Sums]) -> int | None:
    """What a comparator would have charged for these requests, at its standard price."""
    try:
        return comparator.typical(sums, reckoning.period_us)
    except PriceError:
        return None


def paybacks(reckoning: CostContext) -> Iterator[PaybackPart]:
    """Every adapter whose making has a price, against every comparator."""
    whole = reckoning.whole_by_adapter
    for plan in reckoning.facts.plan.adapter:
        fine = [one for one in reckoning.finely_asked if one.adapter == plan.name]
        for comparator in reckoning.facts.comparators:
            elsewhere = typical(reckoning, comparator, fine)
            investment = int(plan.investment_usd * NANO)
            days, saving, reason = None, None, ""
            if not answered(fine):
                reason = "never at this volume: it had no requests in this window"
            elif not reckoning.bill.is_priced or elsewhere is None:
                reason = "not known: the engine or the comparator has no price"
            else:
                saving = round((elsewhere - whole.get(plan.name, 0)) / reckoning.days)
                found = payback_days(plan.investment_usd, Decimal(saving) / NANO)
                days = None if found is None else float(round(found, 1))
                reason = "" if found is not None else "never: here it costs as much as there, or more"
            yield PaybackPart(
                adapter=plan.name,
                comparator=comparator.listing.name,
                investment_nano_usd=investment,
                saving_nano_usd_per_day=saving,
                days=days,
                reason=reason,
            )


def quality(reckoning: CostContext) -> Iterator[QualityPart]:
    """What one right answer costs here, and at least costs elsewhere, on the task that was compared last."""
    fact, price = reckoning.facts.quality, reckoning.realised_per_work
    if fact is None:
        return
    for model, score in fact.models.items():
        work = reckoning.facts.weights.work(score.prompt_tokens, score.cached_tokens, score.completion_tokens)
        spent = None if price is None else round(price * work)
        for right, rate in score.rates.items():
            note = "" if rate.hits else "never right, so no price buys a right answer"
            if price is None:
                note = "the engine has no price in this window, or had no requests"
            per_request = per(spent, score.requests, 1)
            share = rate.hits / rate.of
            yield QualityPart(
                model=model,
                right=right,
                share=share,
                per_request_nano_usd=per_request,
                per_right_nano_usd=None if per_request is None or not rate.hits else round(per_request / share),
                note=note,
            )
    best = max(fact.models.values(), key=lambda score: sum(rate.hits for rate in score.rates.values()))
    period = max((one.period for one in reckoning.finely_asked), default=0)
    asked = Sums(period, "", "", "", "", 0, best.requests, 0, best.prompt_tokens, 0, best.completion_tokens)
    for comparator in reckoning.facts.comparators:
        cost = per(typical(reckoning, comparator, [asked]), best.requests, 1)
        note = "not evaluated here: if every one of its answers were right, a right one would cost this at least"
        yield QualityPart(
            model=comparator.listing.name,
            right="any",
            share=1.0,
            per_request_nano_usd=cost,
            per_right_nano_usd=cost,
            note=note,
        )


def _break_even_part(found: BreakEven) -> BreakEvenPart:
    def number(value: Decimal | None) -> float | None:
        return None if value is None else float(value)

    return BreakEvenPart(
        requests_per_day=number(found.requests_per_day),
        share_of_capacity=number(found.share_of_capacity),
        for_good_from=number(found.for_good_from),
        steps=[(s.replicas, float(s.usd_per_day), number(s.pays_from), number(s.up_to)) for s in found.steps],
        reason=found.reason,
    )


def _span(found: Range) -> Span:
    return Span(low=found.low, typical=found.typical, high=found.high)


def _span_per(total: Span | None, count: float, unit: int) -> Span | None:
    if total is None or not count:
        return None
    low, middle, high = (per(amount, count, unit) or 0 for amount in (total.low, total.typical, total.high))
    return Span(low=low, typical=middle, high=high)
