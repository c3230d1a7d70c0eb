"""The cost document as one self-contained HTML page: charts, tables, and everything that the figures rest on."""

from collections.abc import Iterator, Sequence
from html import escape

from gateway.costs import chart
from gateway.costs.comparators import CACHE_WORDS
from gateway.costs.document import ComparatorPart, CostDocument
from gateway.costs.terminal import names_of, pays_from
from gateway.money import NANO, usd_text

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 82rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; font: 11px system-ui, sans-serif; }
svg text { fill: currentColor; } svg .title { font-size: 13px; font-weight: 600; } .grid { stroke: var(--line); }
.mark { stroke: currentColor; stroke-dasharray: 4 3; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { background: var(--soft); }
.note { background: var(--soft); padding: .6rem 1rem; border-radius: 6px; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 0; }
"""
_THOUSAND = 1000
_SHOWN_BARS = 14


def html_page(document: CostDocument) -> str:
    """The page; it loads nothing from anywhere."""
    window = document.window
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>What it cost</title><style>{_STYLE}</style></head><body><h1>What it cost</h1>",
        f"<p>{_moment(window.since)} to {_moment(window.until)} UTC, {window.days:.3g} days. "
        f"Bill {usd_text(document.bill_nano_usd)}, of it idle {usd_text(document.idle_nano_usd)}.</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in document.notes),
        f'<div class="charts">{_bill_chart(document)}{_price_chart(document)}{_break_even_chart(document)}</div>',
        *_tables(document),
        *_footing(document),
        "</body></html>\n",
    ]
    return "".join(parts)


def _bill_chart(document: CostDocument) -> str:
    lines = sorted(
        ((" · ".join(names_of(line)) or "all", line.cost_nano_usd or 0) for line in document.data),
        key=lambda row: -row[1],
    )
    rows = [chart.Bar(name, cost / NANO, chart.COLOURS[0]) for name, cost in lines[:_SHOWN_BARS]]
    if rest := sum(cost for _, cost in lines[_SHOWN_BARS:]):
        rows.append(chart.Bar(f"{len(lines) - _SHOWN_BARS} more", rest / NANO, chart.COLOURS[0]))
    rows.append(chart.Bar("idle", (document.idle_nano_usd or 0) / NANO, chart.IDLE_COLOUR))
    rows += [chart.Bar(f"{o.kind}: {o.name}", o.nano_usd / NANO, chart.COLOURS[1]) for o in document.overhead]
    return chart.bars("The bill, USD", rows)


def _price_chart(document: CostDocument) -> str:
    rows = []
    total = next((level for level in document.levels if level.name == "(all)"), None)
    if total is not None:
        own = {"here, saturated": total.floor_nano_usd, "here, within limits": total.slo_nano_usd}
        own["here, as it was"] = total.realised_nano_usd
        known = [(name, amount / NANO) for name, amount in own.items() if amount]
        rows = [chart.Whisker(name, usd, usd, usd, "#718096") for name, usd in known]
    for number, one in enumerate(document.comparators):
        if one.per_request is not None:
            figures = (one.per_request.low, one.per_request.typical, one.per_request.high)
            low, typical, high = (figure * _THOUSAND / NANO for figure in figures)
            rows.append(chart.Whisker(_short(one.name), low, typical, high, _colour(number)))
    return chart.whiskers("Per 1,000 requests, USD, between what it lies", rows)


def _break_even_chart(document: CostDocument) -> str:
    known = [one for one in document.comparators if one.break_even and one.break_even.steps and one.per_request]
    if not known:
        return ""
    part = known[0].break_even
    assert part is not None
    requests = sum(line.requests for line in document.data)
    now = requests / document.window.days if document.window.days else 0.0
    firsts = [one.break_even.requests_per_day for one in known if one.break_even and one.break_even.requests_per_day]
    most = max([now, *firsts, *(step[3] or 0 for step in part.steps[:4])], default=1.0) * 2 or 1.0
    xs = chart.spread(most / 10_000, most)
    own = _own_steps(part.steps, xs[0], most)
    lines = [chart.Curve("own engines", own, "#718096", is_step=True)]
    for number, one in enumerate(known):
        assert one.per_request is not None
        price = one.per_request.typical / NANO
        lines.append(chart.Curve(_short(one.name), [(x, x * price) for x in xs], _colour(number)))
    return chart.curves("Break-even: USD a day", "requests a day", "USD a day", lines, now)


def _own_steps(
    steps: Sequence[tuple[int, float, float | None, float | None]], first: float, most: float
) -> list[tuple[float, float]]:
    """What own engines cost a day: level within a number of replicas, and upright where the next one is needed."""
    points, begin = [], first
    for _, usd, _, up_to in steps:
        end = most if up_to is None else min(up_to, most)
        if end > begin:
            points += [(begin, usd), (end, usd)]
            begin = end
    return points


def _tables(document: CostDocument) -> Iterator[str]:
    heads = [*(_names(document)), "requests", "unanswered", "prompt tokens", "cached", "completion tokens"]
    heads += ["working", "idle share"]
    heads += ["cost here", *(f"{_short(one.name)}" for one in document.comparators)]
    rows = []
    for line in document.data:
        counts = (line.requests, line.unanswered, line.prompt_tokens, line.cached_tokens, line.completion_tokens)
        amounts = (line.active_nano_usd, line.idle_share_nano_usd, line.cost_nano_usd)
        elsewhere = (line.elsewhere_nano_usd[one.name] for one in document.comparators)
        rows.append([*names_of(line), *(f"{count:,}" for count in counts), *map(usd_text, (*amounts, *elsewhere))])
    yield f"<h2>The bill</h2>{_table(heads, rows)}"
    ends = [["idle, carried by nobody", usd_text(document.idle_nano_usd)]]
    ends += [[f"{one.kind}: {one.name}", usd_text(one.nano_usd)] for one in document.overhead]
    ends.append(["bill", usd_text(document.bill_nano_usd)])
    if document.booked_nano_usd is not None:
        ends.append(["booked as requests ended (budgets, cost headers)", usd_text(document.booked_nano_usd)])
    yield _table(["", "USD"], ends)
    yield from _level_and_comparator_tables(document)
    if document.payback:
        rows = [
            [
                one.adapter,
                one.comparator,
                usd_text(one.investment_nano_usd, 2),
                "" if one.saving_nano_usd_per_day is None else usd_text(one.saving_nano_usd_per_day),
                one.reason if one.days is None else f"{one.days:,.1f} days",
            ]
            for one in document.payback
        ]
        yield "<h2>When training pays back</h2>"
        yield _table(["adapter", "instead of", "invested", "saved a day", "paid back after"], rows)
    if document.quality:
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
        yield "<h2>What a right answer costs</h2>"
        yield _table(["model", "right is", "share", "per request", "per right answer", ""], rows)


def _level_and_comparator_tables(document: CostDocument) -> Iterator[str]:
    rows = []
    for level in document.levels:
        amounts = (level.floor_nano_usd, level.slo_nano_usd, level.realised_nano_usd, level.utilisation_tax_nano_usd)
        cells = ["not measured" if a is None else usd_text(a) for a in amounts] if level.requests else [""] * 4
        rows.append([level.name, f"{level.requests:,}", usd_text(level.cost_nano_usd), *cells])
    yield "<h2>Three numbers, per 1,000 requests</h2>"
    yield _table(["", "requests", "cost in all", "saturated", "within limits", "realised", "utilisation tax"], rows)
    variants = ("standard", "cached", "reasoning", "batch")
    rows = []
    for one in document.comparators:
        cells = [one.name]
        for name in variants:
            total = one.variants[name].total
            cells.append(
                "unpriced"
                if total is None
                else f"{usd_text(total.typical)} ({usd_text(total.low)} … {usd_text(total.high)})"
            )
        chars = "not recorded" if one.per_thousand_chars is None else usd_text(one.per_thousand_chars.typical)
        cells += [chars, "unpriced" if one.break_even is None else pays_from(one.break_even)]
        rows.append(cells)
    yield "<h2>The same requests elsewhere</h2>"
    yield _table(["", *variants, "per 1,000 characters", "own engines pay from"], rows)


def _footing(document: CostDocument) -> Iterator[str]:
    yield "<h2>What this rests on</h2><dl>"
    facts = {
        "Weights": document.weights,
        "Capacity": document.capacity,
        "Idle time": f"policy {document.idle_policy}",
        "Prices": f"{document.prices.source} on {document.prices.on}. {document.prices.age}",
        "Caches elsewhere": CACHE_WORDS,
        "Text": "Same requests, same quality assumed; see what a right answer costs where that was measured.",
    }
    for one in document.comparators:
        factor = "{:.2f}, {:.2f}, {:.2f}".format(*one.token_factor)
        facts[one.name] = one.unpriced or (
            f"{_priced_as(one)}{one.origin}; {one.source}; checked {one.checked_on or 'on a day nobody noted'}. "
            f"Tokens per token here: {factor} ({one.token_source}). {one.note}"
        )
    for name, text in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
    yield "</dl>"


def _names(document: CostDocument) -> list[str]:
    return [{"adapter": "model"}.get(name, name) for name in document.group_by] or [""]


def _moment(iso: str) -> str:
    return escape(iso[:16].replace("T", " "))


def _priced_as(one: ComparatorPart) -> str:
    return "" if one.entry == one.name else f"Priced as {one.entry}, the nearest name that the data knows; "


def _short(name: str) -> str:
    return name.partition(":")[2] or name


def _colour(number: int) -> str:
    return chart.COLOURS[number % len(chart.COLOURS)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
