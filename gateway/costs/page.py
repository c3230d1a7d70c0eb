"""The cost report as one HTML page: the total, the bill, prices elsewhere, break-even, and what the figures rest on."""

from collections.abc import Iterator, Sequence

from gateway.costs.comparators import CACHE_ASSUMPTIONS, VARIANTS
from gateway.costs.document import ComparatorPart, CostDocument, LevelPart, VariantPart
from gateway.costs.terminal import names_of, overhead_name, pays_from
from gateway.money import NANO, usd_text
from turntable.pages import charts
from turntable.pages.numbers import USD, number
from turntable.pages.render import page
from turntable.pages.svg import Drawing
from turntable.pages.tables import PageTable, Tile

_THOUSAND = 1000
_HOUR, _MINUTE = 1 / 24, 1 / 1440
_FEW = 2
_MOST_BARS = 14
_CURVE_POINTS = 60
_MOST_STEPS = 4
"""Numbers of replicas that the break-even chart shows at least."""


def html_page(document: CostDocument) -> str:
    """Render the page; it loads nothing from elsewhere."""
    drawings = (_bill_chart(document), _price_chart(document), _break_even_chart(document))
    return page(
        "gateway.costs/page.html",
        title="Cost report",
        headline=f"{_bill_text(document)} for {sum(line.requests for line in document.data):,} requests",
        sentences=list(_headline(document)),
        tiles=list(_tiles(document)),
        notes=document.notes,
        charts=[chart for chart in drawings if chart],
        bill=_bill_table(document),
        totals=_totals_table(document),
        levels=_levels_table(document),
        comparators=_comparators_table(document),
        payback=_payback_table(document),
        quality=_quality_table(document),
        sources=list(_sources(document)),
    )


def _headline(document: CostDocument) -> Iterator[str]:
    window, requests = document.window, sum(line.requests for line in document.data)
    yield f"{_moment(window.since)} to {_moment(window.until)} UTC, {_length(window.days)}."
    priced = [
        (total.typical, comparator.name)
        for comparator in document.comparators
        if (total := comparator.variants["standard"].total)
    ]
    if priced and requests:
        (least, cheapest), (most, dearest) = min(priced), max(priced)
        to = "" if len(priced) == 1 else f" to {USD.text(most / NANO)} ({_short(dearest)})"
        yield f"At list prices, the same requests cost {USD.text(least / NANO)} ({_short(cheapest)}){to} elsewhere."
    if found := _first_break_even(document):
        a_day, name = found
        now = f"this window had {_per_day(document):,.0f}"
        yield f"Own engines break even with {_short(name)} at {a_day:,.0f} requests a day; {now}."


def _tiles(document: CostDocument) -> Iterator[Tile]:
    total = _all_models(document)
    realised = total.realised_nano_usd if total else None
    if realised is not None:
        tax = total.utilisation_tax_nano_usd if total else None
        note = "" if tax is None else f"{USD.text(tax / NANO)} of it because the engine was not full"
        yield Tile("Per 1,000 requests", USD.text(realised / NANO), note)
    answered = sum(line.requests for line in document.data)
    yield Tile("Requests", f"{answered:,}", f"{sum(line.unanswered for line in document.data):,} refused or failed")
    tokens = sum(line.prompt_tokens + line.completion_tokens for line in document.data)
    yield Tile("Tokens", f"{tokens:,}", f"{sum(line.cached_tokens for line in document.data):,} prompt tokens cached")
    busy = document.engine_busy_s / document.engine_up_s if document.engine_up_s else 0.0
    yield Tile("Engine busy", f"{busy:.1%}", f"{document.engine_busy_s:,.0f} of {document.engine_up_s:,.0f} s")
    if document.idle_nano_usd:
        yield Tile("Idle time", USD.text(document.idle_nano_usd / NANO), "charged to no model")


def _bill_chart(document: CostDocument) -> Drawing | None:
    """The bill by model, the dearest first, then idle time and overhead."""
    lines = sorted(
        ((names_of(line), line.active_nano_usd or 0, line.idle_share_nano_usd or 0) for line in document.data),
        key=lambda row: -(row[1] + row[2]),
    )
    rows = [_bar(" · ".join(names) or "all", active, idle) for names, active, idle in lines[:_MOST_BARS]]
    if rest := lines[_MOST_BARS:]:
        rows.append(_bar(f"{len(rest)} more", sum(row[1] for row in rest), sum(row[2] for row in rest)))
    rows.append(_bar("idle, charged to no model", 0, document.idle_nano_usd or 0))
    rows += [charts.Bar(overhead_name(part), [("overhead", part.nano_usd / NANO)]) for part in document.overhead]
    return charts.bars("Where the money went", USD, rows, stacked=True)


def _bar(name: str, active: int, idle: int) -> charts.Bar:
    return charts.Bar(name, [("working", active / NANO), ("idle", idle / NANO)])


def _price_chart(document: CostDocument) -> Drawing | None:
    """What 1,000 requests cost here, and elsewhere as ranges."""
    rows, limits, total = [], [], _all_models(document)
    if total is not None:
        own = {"here, engine saturated": total.floor_nano_usd, "here, within latency limits": total.slo_nano_usd}
        own["here, in this window"] = total.realised_nano_usd
        known = [(name, amount / NANO) for name, amount in own.items() if amount]
        rows = [charts.Range(name, usd, usd, usd, USD.text(usd)) for name, usd in known]
        if total.realised_nano_usd:
            usd = total.realised_nano_usd / NANO
            limits = [charts.Limit(f"this window: {USD.text(usd)}", usd)]
    for comparator in document.comparators:
        if comparator.per_request is not None:
            figures = (comparator.per_request.low, comparator.per_request.typical, comparator.per_request.high)
            low, typical, high = (figure * _THOUSAND / NANO for figure in figures)
            rows.append(charts.Range(_short(comparator.name), low, typical, high, USD.text(typical), tone=1))
    return charts.ranges("Price of 1,000 requests, here and elsewhere", charts.Axis("", USD, is_log=True), rows, limits)


def _break_even_chart(document: CostDocument) -> Drawing | None:
    """Cost a day over requests a day: own engines in steps of a replica, elsewhere in proportion."""
    known = [
        comparator
        for comparator in document.comparators
        if comparator.break_even and comparator.break_even.steps and comparator.per_request
    ]
    if not known or known[0].break_even is None:
        return None
    steps = known[0].break_even.steps
    now, first = _per_day(document), _first_break_even(document)
    found = [
        comparator.break_even.requests_per_day
        for comparator in known
        if comparator.break_even and comparator.break_even.requests_per_day
    ]
    most = max([now, *found, *(step[3] or 0 for step in steps[:_MOST_STEPS])], default=1.0) * 2 or 1.0
    least = min(most / 10_000, now / 2 or most)
    xs = [least * (most / least) ** (place / (_CURVE_POINTS - 1)) for place in range(_CURVE_POINTS)]
    lines = [charts.Series("own engines", _own_steps(steps, xs[0], most), has_markers=False)]
    for comparator in known:
        price = comparator.per_request.typical / NANO if comparator.per_request else 0.0
        lines.append(charts.Series(_short(comparator.name), [(x, x * price) for x in xs]))
    limits = [charts.Limit(f"this window: {now:,.0f} a day", now, is_upright=True)] if now else []
    if first:
        limits.append(charts.Limit(f"break-even: {first[0]:,.0f} a day", first[0], is_upright=True))
    x, y = charts.Axis("requests a day", is_log=True), charts.Axis("USD a day", USD, is_log=True)
    return charts.lines("Break-even: cost a day over requests a day", x, y, lines, limits)


def _own_steps(
    steps: Sequence[tuple[int, float, float | None, float | None]], first: float, most: float
) -> list[tuple[float, float]]:
    """Return what own engines cost a day: level within a number of replicas, upright where the next one is needed."""
    points, begin = [], first
    for _, usd, _, up_to in steps:
        end = most if up_to is None else min(up_to, most)
        if end > begin:
            points += [(begin, usd), (end, usd)]
            begin = end
    return points


def _bill_table(document: CostDocument) -> PageTable:
    names = [{"adapter": "model"}.get(name, name) for name in document.group_by] or [""]
    head = [*names, "requests", "failed", "prompt tokens", "cached", "output tokens"]
    head += ["working", "idle share", "cost here", *(_short(comparator.name) for comparator in document.comparators)]
    rows = []
    for line in document.data:
        counts = (line.requests, line.unanswered, line.prompt_tokens, line.cached_tokens, line.completion_tokens)
        amounts = (line.active_nano_usd, line.idle_share_nano_usd, line.cost_nano_usd)
        elsewhere = (line.elsewhere_nano_usd[comparator.name] for comparator in document.comparators)
        rows.append([*names_of(line), *(f"{count:,}" for count in counts), *map(usd_text, (*amounts, *elsewhere))])
    return PageTable(head, rows, text=range(len(names)))


def _totals_table(document: CostDocument) -> PageTable:
    rows = [["idle time, charged to no model", usd_text(document.idle_nano_usd)]]
    rows += [[overhead_name(part), usd_text(part.nano_usd)] for part in document.overhead]
    rows.append(["total", usd_text(document.bill_nano_usd)])
    total = len(rows) - 1
    if document.booked_nano_usd is not None:
        rows.append(["booked as requests ended (budgets, cost headers)", usd_text(document.booked_nano_usd)])
    return PageTable(["beside the lines above", "USD"], rows, totals=(total,))


def _levels_table(document: CostDocument) -> PageTable:
    rows = []
    for level in document.levels:
        amounts = (level.floor_nano_usd, level.slo_nano_usd, level.realised_nano_usd, level.utilisation_tax_nano_usd)
        cells = ["not measured" if a is None else usd_text(a) for a in amounts] if level.requests else [""] * 4
        rows.append([level.name, f"{level.requests:,}", usd_text(level.cost_nano_usd), *cells])
    head = ["model", "requests", "cost", "saturated", "within latency limits"]
    head += ["in this window", "utilisation tax"]
    return PageTable(head, rows, totals=[place for place, level in enumerate(document.levels) if level.name == "(all)"])


def _comparators_table(document: CostDocument) -> PageTable:
    rows = []
    for comparator in document.comparators:
        chars = (
            "not recorded" if comparator.per_thousand_chars is None else usd_text(comparator.per_thousand_chars.typical)
        )
        pays = "unpriced" if comparator.break_even is None else pays_from(comparator.break_even)
        rows.append([comparator.name, *(_range_text(comparator.variants[name]) for name in VARIANTS), chars, pays])
    return PageTable(["", *VARIANTS, "per 1,000 characters", "own engines pay from"], rows, text=(0, 6))


def _range_text(variant: VariantPart) -> str:
    total = variant.total
    if total is None:
        return "unpriced"
    low, typical, high = (USD.text(amount / NANO) for amount in (total.low, total.typical, total.high))
    return f"{typical} ({low} … {high})"


def _payback_table(document: CostDocument) -> PageTable:
    rows = [
        [
            payback.adapter,
            payback.comparator,
            usd_text(payback.investment_nano_usd, 2),
            "" if payback.saving_nano_usd_per_day is None else usd_text(payback.saving_nano_usd_per_day),
            payback.reason if payback.days is None else f"{payback.days:,.1f} days",
        ]
        for payback in document.payback
    ]
    return PageTable(["adapter", "instead of", "invested", "saved a day", "paid back after"], rows, text=(0, 1))


def _quality_table(document: CostDocument) -> PageTable:
    rows = [
        [
            q.model,
            q.right,
            f"{q.share:.1%}",
            usd_text(q.per_request_nano_usd),
            "never right" if q.per_right_nano_usd is None and not q.share else usd_text(q.per_right_nano_usd),
            q.note,
        ]
        for q in document.quality
    ]
    head = ["model", "correct means", "accuracy", "per request", "per correct answer", "note"]
    return PageTable(head, rows, text=(0, 1, 5))


def _sources(document: CostDocument) -> Iterator[tuple[str, str]]:
    """What the figures rest on, by name."""
    yield "Weights", document.weights
    yield "Capacity", document.capacity
    yield "Idle time", f"policy {document.idle_policy}"
    yield "Prices", f"{document.prices.source} on {document.prices.on}. {document.prices.age}"
    yield "Caches elsewhere", CACHE_ASSUMPTIONS
    yield "Text", "Same requests, same quality assumed; see the cost of a correct answer where that was measured."
    for comparator in document.comparators:
        factor = "{:.2f}, {:.2f}, {:.2f}".format(*comparator.token_factor)
        checked = comparator.checked_on or "on an unknown day"
        priced = (
            f"{_priced_as(comparator)}{comparator.origin}; {comparator.source}; checked {checked}. "
            f"Tokens per token here: {factor} ({comparator.token_source}). {comparator.note}"
        )
        yield comparator.name, comparator.unpriced or priced


def _all_models(document: CostDocument) -> LevelPart | None:
    return next((level for level in document.levels if level.name == "(all)"), None)


def _per_day(document: CostDocument) -> float:
    return sum(line.requests for line in document.data) / document.window.days if document.window.days else 0.0


def _first_break_even(document: CostDocument) -> tuple[float, str] | None:
    """Return the fewest requests a day from which own engines pay, and against which comparator."""
    found = [
        (comparator.break_even.requests_per_day, comparator.name)
        for comparator in document.comparators
        if comparator.break_even and comparator.break_even.requests_per_day
    ]
    return min(found, default=None)


def _priced_as(comparator: ComparatorPart) -> str:
    if comparator.entry == comparator.name:
        return ""
    return f"Priced as {comparator.entry}, the nearest name in the price data; "


def _bill_text(document: CostDocument) -> str:
    return "No price" if document.bill_nano_usd is None else USD.text(document.bill_nano_usd / NANO)


def _length(days: float) -> str:
    """Write the length of a window in days, or in a smaller unit where that is easier to read."""
    for name, size in (("days", 1.0), ("hours", _HOUR), ("minutes", _MINUTE)):
        if days >= _FEW * size:
            return f"{number(days / size)} {name}"
    return f"{days / _MINUTE * 60:.0f} seconds"


def _moment(iso: str) -> str:
    return iso[:16].replace("T", " ")


def _short(name: str) -> str:
    return name.partition(":")[2] or name
