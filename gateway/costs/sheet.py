"""The cost document as CSV: one row for every line of the bill, amounts in nano-USD so that sums stay exact."""

import csv
import io
from typing import Any

from gateway.costs.document import CostDocument
from gateway.costs.show import NAMES

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
