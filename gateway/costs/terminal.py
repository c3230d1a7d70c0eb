"""The cost document as CSV: one row for every line of the bill, amounts in nano-USD so that sums stay exact.

The cost document as tables for a terminal.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from gateway.costs.document import BreakEvenPart, ComparatorPart, CostDocument, Line, OverheadPart, Span
from gateway.money import usd_text

NAMES = ("model", "tenant", "key", "engine", "day")
_THOUSAND = 1000


def shown(document: CostDocument) -> Iterator[Table | str]:
    """Everything worth a look, in order; sentences stand between tables."""
    yield usage_table(document)
    yield money_table(document)
    yield footnote(document)
    if any(level.floor_nano_usd is not None for level in document.levels):
        yield levels_table(document)
        yield f"Capacity {document.capacity.rstrip('.')}. The utilisation tax is what idle and half-used time costs."
    if document.comparators and document.data:
        yield comparators_table(document)
        yield from (
            f"{one.name} is priced as {one.entry}, the nearest name that the price data knows."
            for one in document.comparators
            if one.entry not in ("", one.name)
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
    table = _table(*_heads(document), left=len(document.group_by))
    for name in ("requests", "prompt tokens", "of them cached", "completion tokens"):
        table.add_column(name, justify="right")
    for line in document.data:
        counts = (line.requests, line.prompt_tokens, line.cached_tokens, line.completion_tokens)
        table.add_row(*names_of(line), *(f"{count:,}" for count in counts))
    return table


def money_table(document: CostDocument) -> Table:
    """What it cost here, and elsewhere; the last lines make it the bill."""
    others = [one.name for one in document.comparators]
    table = _table(*_heads(document), left=len(document.group_by))
    for name in ("here", *(other.partition(":")[2] for other in others)):
        table.add_column(name, justify="right", overflow="fold")
    for line in document.data:
        elsewhere = (usd_text(line.elsewhere_nano_usd[name]) for name in others)
        table.add_row(*names_of(line), usd_text(line.cost_nano_usd), *elsewhere)
    table.add_section()
    blanks = [""] * max(0, len(document.group_by) - 1)
    table.add_row("(idle)", *blanks, usd_text(document.idle_nano_usd))
    for one in document.overhead:
        table.add_row(f"({overhead_name(one)})", *blanks, usd_text(one.nano_usd))
    table.add_row("(bill)", *blanks, usd_text(document.bill_nano_usd))
    return table


def overhead_name(one: OverheadPart) -> str:
    """Name a line of overhead as a reader would: own work says by its name that it is nobody's."""
    return f"own work: {one.name.removesuffix(' (own)')}" if one.kind == "own work" else f"{one.kind} {one.name}"


def footnote(document: CostDocument) -> str:
    """What the figures rest on."""
    booked = (
        ""
        if document.booked_nano_usd is None
        else f"Requests were booked with {usd_text(document.booked_nano_usd)} as they ended, by which budgets and cost "
        "headers go: each at the price of work of that moment. The lines above divide the time in which engines really "
        "worked, so the two differ. "
    )
    return (
        f"{booked}Engine up {document.engine_up_s:.0f} s, busy {document.engine_busy_s:.1f} s. Elsewhere: list prices "
        f"of {document.prices.on} from {document.prices.source}, for as many tokens as that tokenizer typically makes "
        f"of the same text; {document.prices.age} Weights {document.weights}."
    )


def levels_table(document: CostDocument) -> Table:
    """The three numbers."""
    table = _table("per 1,000 requests", left=1)
    table.add_column("cost in all", justify="right")
    for name in ("saturated", "within limits", "realised", "utilisation tax"):
        table.add_column(name, justify="right")
    for level in document.levels:
        amounts = (level.floor_nano_usd, level.slo_nano_usd, level.realised_nano_usd, level.utilisation_tax_nano_usd)
        cells = ("not measured" if amount is None else usd_text(amount) for amount in amounts)
        table.add_row(level.name, usd_text(level.cost_nano_usd), *(cells if level.requests else [""] * 4))
    return table


def comparators_table(document: CostDocument) -> Table:
    """Prices per request elsewhere as ranges, and where own engines begin to pay."""
    table = _table("elsewhere", left=1)
    for name in ("per 1,000 requests", "from … to", "own engine pays from"):
        table.add_column(name, justify="right")
    for one in document.comparators:
        span = one.per_request
        typical = "unpriced" if span is None else usd_text(span.typical * _THOUSAND, 4)
        table.add_row(one.name, typical, _from_to(span), _pays_from(one))
    return table


def payback_table(document: CostDocument) -> Table:
    """When training pays back."""
    table = _table("adapter", "instead of", left=2)
    for name in ("invested", "saved a day", "paid back after"):
        table.add_column(name, justify="right")
    for one in document.payback:
        after = one.reason if one.days is None else f"{one.days:,.1f} days"
        saved = "" if one.saving_nano_usd_per_day is None else usd_text(one.saving_nano_usd_per_day)
        table.add_row(one.adapter, one.comparator, usd_text(one.investment_nano_usd, 2), saved, after)
    return table


def quality_table(document: CostDocument) -> Table:
    """What a right answer costs."""
    table = _table("model", "right is", left=2)
    for name in ("share", "per request", "per right answer"):
        table.add_column(name, justify="right")
    for one in document.quality:
        right = one.note if one.per_right_nano_usd is None else usd_text(one.per_right_nano_usd)
        share = "not evaluated" if one.right == "any" else f"{one.share:.1%}"
        least = "at least " if one.right == "any" and one.per_right_nano_usd is not None else ""
        table.add_row(one.model, one.right, share, usd_text(one.per_request_nano_usd), f"{least}{right}")
    return table


def pays_from(part: BreakEvenPart) -> str:
    """A break-even in words."""
    if part.requests_per_day is None:
        return part.reason.partition(":")[0]
    if part.share_of_capacity is None:
        return f"{part.requests_per_day:,.0f} requests a day (capacity not measured)"
    full = part.requests_per_day / part.share_of_capacity if part.share_of_capacity else 0
    share = f" ({part.share_of_capacity:.1%} of one engine, which is full at {full:,.0f})"
    return f"{part.requests_per_day:,.0f} requests a day{share}"


def _pays_from(one: ComparatorPart) -> str:
    if one.break_even is None:
        return "unpriced"
    return pays_from(one.break_even)


def _from_to(span: Span | None) -> str:
    if span is None:
        return ""
    return f"{usd_text(span.low * _THOUSAND, 4)} … {usd_text(span.high * _THOUSAND, 4)}"


def _heads(document: CostDocument) -> list[str]:
    columns = {"adapter": "model"}
    order = {name: place for place, name in enumerate(NAMES)}
    return sorted((columns.get(name, name) for name in document.group_by), key=order.__getitem__) or [""]


def _table(*heads: str, left: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for place, name in enumerate(heads):
        is_name = place < max(left, 1)
        table.add_column(name, justify="left" if is_name else "right", no_wrap=is_name, overflow="fold")
    return table


_COUNTS = ("requests", "unanswered", "unsettled", "prompt_tokens", "cached_tokens", "completion_tokens")
_AMOUNTS = ("active_nano_usd", "idle_share_nano_usd", "cost_nano_usd")


def as_csv(document: CostDocument) -> str:
    """Lines of the bill; `line` says what kind each is, and the costs of all kinds but `bill` add up to the bill."""
    names = [name for name in NAMES if any(getattr(line, name) is not None for line in document.data)]
    others = [one.name for one in document.comparators]
    heads = ["line", *(names or ["model"]), *_COUNTS, *_AMOUNTS, *(f"{name}_nano_usd" for name in others)]
    rows: list[dict[str, Any]] = []
    for line in document.data:
        values = line.model_dump()
        elsewhere = {f"{name}_nano_usd": line.elsewhere_nano_usd[name] for name in others}
        rows.append({"line": "usage", **{head: values[head] for head in heads if head in values}, **elsewhere})
    first = heads[1]
    rows.append({"line": "idle", "cost_nano_usd": document.idle_nano_usd})
    rows += [{"line": one.kind, first: one.name, "cost_nano_usd": one.nano_usd} for one in document.overhead]
    rows.append({"line": "bill", "cost_nano_usd": document.bill_nano_usd})
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
