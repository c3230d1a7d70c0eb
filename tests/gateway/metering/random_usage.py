"""Random rows of the ledger, and their sums computed without SQL."""

from collections import defaultdict
from random import Random
from typing import Any

from gateway.clock import DAY_US, HOUR_US, now_us
from gateway.metering.usage_queries import COUNTS, SHORT_PROMPT
from tests.gateway.costs.ledger_rows import row

NOW = now_us()


def random_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Requests of the last three days, some across midnight, some long, some never settled."""
    choose = Random(seed)
    rows = []
    for number in range(count):
        opened = NOW - choose.randrange(3 * DAY_US)
        took = choose.choice([None, 1, 10**6, HOUR_US, 5 * HOUR_US]) if choose.random() < 0.3 else 10**5
        took = None if took is None else min(took, NOW - opened)
        prompt = choose.choice([10, 500, SHORT_PROMPT, SHORT_PROMPT + 1, 90_000])
        state = {"state": "interrupted"} if took is None else {}
        fields = {"adapter": choose.choice([None, "a", "b"]), "engine": choose.choice(["engine-0", "engine-1", None])}
        tokens = {"prompt_tokens": prompt, "cached_tokens": prompt // 3, "completion_tokens": choose.randrange(50)}
        state |= {"finish": choose.choice(["completed", "completed", "client_abort", "refused", "engine_error"])}
        rows.append(row(number, opened, took, tenant=choose.choice(["t", "u"]), **fields, **tokens, **state))
    return rows


def by_hand(rows: list[dict[str, Any]], since: int, until: int) -> tuple[dict[str, int], dict[tuple[int, str], int]]:
    """The same sums, and the union of intervals microsecond by microsecond's worth, without SQL."""
    inside = [one for one in rows if since <= one["opened_us"] < until]
    totals = {"requests": len(inside), "unsettled": sum(one["state"] != "settled" for one in inside)}
    totals |= {name: sum(one[name] for one in inside) for name in COUNTS[2:5]}
    failed = ("refused", "engine_error")
    totals["unanswered"] = sum(one["state"] == "settled" and one["finish"] in failed for one in inside)
    busy: dict[tuple[int, str], int] = defaultdict(int)
    for engine in ("engine-0", "engine-1", None):
        reached = since
        spans = sorted(
            (one["opened_us"], one["settled_us"])
            for one in rows
            if one["engine"] == engine and one["settled_us"] and one["opened_us"] < until
        )
        for begin, end in spans:
            begin, end = max(begin, reached), min(end, until)
            while begin < end:
                here = min(end, (begin // DAY_US + 1) * DAY_US)
                busy[begin // DAY_US, engine or ""] += here - begin
                begin = here
            reached = max(reached, end)
    return totals, dict(busy)


def totals_of(sums: Any) -> dict[str, int]:
    return {name: sum(getattr(one, name) for one in sums) for name in COUNTS}
