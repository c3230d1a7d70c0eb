"""The cost report as tables for a terminal, and as CSV with amounts in nano-USD so that sums stay exact."""

from collections.abc import Iterator
from typing import Any

from gateway.costs.document import BreakEvenPart, ComparatorPart, CostDocument, Line, OverheadPart, Span
from gateway.money import usd_text
from turntable.console import Table, csv_text, figures

NAMES = ("model", "tenant", "key", "engine", "day")
_THOUSAND = 1000


def shown(document: CostDocument) -> Iterator[Table | str]:
    """The tables of the report in order, with sentences between them."""
    yield usage_table(document)
    yield money_table(document)
    yield footnote(document)
    yield from _without_requests(document)
    if any(level.floor_nano_usd is not None for level in document.levels):
        yield levels_table(document)
        yield f"Capacity {document.capacity.rstrip('.')}. The utilisation tax is the cost of unused engine time."
    if document.comparators and document.data:
        yield comparators_table(document)
        yield from (
            f"{comparator.name} is priced as {comparator.entry}, the nearest name in the price data."
            for comparator in document.comparators
            if comparator.entry not in ("", comparator.name)
        )
    if document.payback:
        yield payback_table(document)
    if document.quality:
        yield quality_table(document)
    yield from document.notes


def names_of(line: Line) -> list[str]:
    """The columns by which a line is grouped."""
    return [str(value) for name in NAMES if (value := getattr(line, name)) is not None]


def usage_table(document: CostDocument) -> Table:
    """Requests and tokens."""
    table = Table(*_heads(document), *figures("requests", "prompt tokens", "of them cached", "completion tokens"))
    for line in document.data:
        counts = (line.requests, line.prompt_tokens, line.cached_tokens, line.completion_tokens)
        table.add(*_names(line), *(f"{count:,}" for count in counts))
    return table


def money_table(document: CostDocument) -> Table:
    """Cost on your engines beside the price of other APIs; the last lines add up to the bill."""
    others = [comparator.name for comparator in document.comparators]
    table = Table(*_heads(document), *figures("own engines", *(other.partition(":")[2] for other in others)))
    for line in document.data:
        elsewhere = (usd_text(line.elsewhere_nano_usd[name]) for name in others)
        table.add(*_names(line), usd_text(line.cost_nano_usd), *elsewhere)
    table.rule()
    blanks, unpriced = [""] * max(0, len(document.group_by) - 1), [""] * len(others)
    table.add("(idle)", *blanks, usd_text(document.idle_nano_usd), *unpriced)
    for part in document.overhead:
        table.add(f"({overhead_name(part)})", *blanks, usd_text(part.nano_usd), *unpriced)
    table.add("(bill)", *blanks, usd_text(document.bill_nano_usd), *unpriced)
    return table


def overhead_name(part: OverheadPart) -> str:
    """The name of a line of overhead: `own work: probe`, `storage adapters`."""
    return f"own work: {part.name.removesuffix(' (own)')}" if part.kind == "own work" else f"{part.kind} {part.name}"


def footnote(document: CostDocument) -> str:
    """Engine hours, sources of prices and weights, and how booked and reported amounts differ."""
    booked = (
        ""
        if document.booked_nano_usd is None
        else f"Requests were booked with {usd_text(document.booked_nano_usd)} as they ended, each at the price of that "
        "moment; budgets and cost headers use this. The lines above divide measured engine time, so the two differ. "
    )
    return (
        f"{booked}Engine up {document.engine_up_s:.0f} s, busy {document.engine_busy_s:.1f} s. Other APIs: list "
        f"prices of {document.prices.on} from {document.prices.source}, for the typical token count of that tokenizer "
        f"for the same text; {document.prices.age} Weights {document.weights}."
    )


def _without_requests(document: CostDocument) -> Iterator[str]:
    """Explain the cost of adapters that answered no request."""
    names = [line.model for line in document.data if line.model and line.cost_nano_usd and not line.requests]
    if names:
        yield (
            f"No answered requests: {', '.join(dict.fromkeys(names))}. Their cost is the engine time of loading them "
            "and of unanswered requests, and their share of idle time where that is divided."
        )


def levels_table(document: CostDocument) -> Table:
    """Cost per 1,000 requests on a saturated engine, within latency limits, and as realised."""
    heads = ("total cost", "saturated", "within limits", "realised", "utilisation tax")
    table = Table("per 1,000 requests", *figures(*heads))
    for level in document.levels:
        amounts = (level.floor_nano_usd, level.slo_nano_usd, level.realised_nano_usd, level.utilisation_tax_nano_usd)
        cells = ("not measured" if amount is None else usd_text(amount) for amount in amounts)
        table.add(level.name, usd_text(level.cost_nano_usd), *(cells if level.requests else [""] * 4))
    return table


def comparators_table(document: CostDocument) -> Table:
    """Prices of other APIs per 1,000 requests as ranges, and the break-even volume of an own engine."""
    table = Table("other APIs", *figures("per 1,000 requests", "from … to", "break-even from"))
    for comparator in document.comparators:
        span = comparator.per_request
        typical = "unpriced" if span is None else usd_text(span.typical * _THOUSAND, 4)
        table.add(comparator.name, typical, _from_to(span), _pays_from(comparator))
    return table


def payback_table(document: CostDocument) -> Table:
    """The payback time of training."""
    table = Table("adapter", "instead of", *figures("invested", "saved per day", "paid back after"))
    for payback in document.payback:
        after = payback.reason if payback.days is None else f"{payback.days:,.1f} days"
        saved = "" if payback.saving_nano_usd_per_day is None else usd_text(payback.saving_nano_usd_per_day)
        table.add(payback.adapter, payback.comparator, usd_text(payback.investment_nano_usd, 2), saved, after)
    return table


def quality_table(document: CostDocument) -> Table:
    """The cost of a correct answer."""
    table = Table("model", "correct is", *figures("share", "per request", "per correct answer"))
    for row in document.quality:
        right = row.note if row.per_right_nano_usd is None else usd_text(row.per_right_nano_usd)
        share = "not evaluated" if row.right == "any" else f"{row.share:.1%}"
        least = "at least " if row.right == "any" and row.per_right_nano_usd is not None else ""
        table.add(row.model, row.right, share, usd_text(row.per_request_nano_usd), f"{least}{right}")
    return table


def pays_from(part: BreakEvenPart) -> str:
    """A break-even volume with its share of one engine's capacity."""
    if part.requests_per_day is None:
        return part.reason.partition(":")[0]
    if part.share_of_capacity is None:
        return f"{part.requests_per_day:,.0f} requests per day (capacity not measured)"
    full = part.requests_per_day / part.share_of_capacity if part.share_of_capacity else 0
    share = f" ({part.share_of_capacity:.1%} of one engine, which is full at {full:,.0f})"
    return f"{part.requests_per_day:,.0f} requests per day{share}"


def _pays_from(comparator: ComparatorPart) -> str:
    if comparator.break_even is None:
        return "unpriced"
    return pays_from(comparator.break_even)


def _from_to(span: Span | None) -> str:
    if span is None:
        return ""
    return f"{usd_text(span.low * _THOUSAND, 4)} … {usd_text(span.high * _THOUSAND, 4)}"


def _names(line: Line) -> list[str]:
    return names_of(line) or ["total"]


def _heads(document: CostDocument) -> list[str]:
    columns = {"adapter": "model"}
    order = {name: place for place, name in enumerate(NAMES)}
    return sorted((columns.get(name, name) for name in document.group_by), key=order.__getitem__) or [""]


_COUNTS = ("requests", "unanswered", "unsettled", "prompt_tokens", "cached_tokens", "completion_tokens")
_AMOUNTS = ("active_nano_usd", "idle_share_nano_usd", "cost_nano_usd")


def as_csv(document: CostDocument) -> str:
    """One row per line of the bill; `line` is its kind, and the costs of all kinds but `bill` add up to the bill."""
    names = [name for name in NAMES if any(getattr(line, name) is not None for line in document.data)]
    others = [comparator.name for comparator in document.comparators]
    heads = ["line", *(names or ["model"]), *_COUNTS, *_AMOUNTS, *(f"{name}_nano_usd" for name in others)]
    rows: list[dict[str, Any]] = []
    for line in document.data:
        values = line.model_dump()
        elsewhere = {f"{name}_nano_usd": line.elsewhere_nano_usd[name] for name in others}
        rows.append({"line": "usage", **{head: values[head] for head in heads if head in values}, **elsewhere})
    first = heads[1]
    rows.append({"line": "idle", "cost_nano_usd": document.idle_nano_usd})
    rows += [{"line": part.kind, first: part.name, "cost_nano_usd": part.nano_usd} for part in document.overhead]
    rows.append({"line": "bill", "cost_nano_usd": document.bill_nano_usd})
    return csv_text(heads, rows)
