"""Costs: the engine's bill for a window, divided among the base and the adapters, with idle time on its own line.

The bill is hours up x price per hour. The share of time with at least one request running is divided by weighted
tokens; the rest is idle. Everything is integer nano-USD, and allocated + idle = bill, exactly.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.engine_runs import EngineRun
from gateway.usage import Usage

# Relative cost of a token. Stated, not yet measured on this engine: decoding a token takes an engine step of its own,
# while prompt tokens are processed many at a time, and cached ones hardly at all.
PROMPT_WEIGHT, CACHED_WEIGHT, COMPLETION_WEIGHT = 10, 1, 40
_US_PER_HOUR = 3_600 * 10**6


@dataclass(frozen=True)
class Line:
    """One line of the cost table: tokens and requests of a model, and its part of the bill (None when unpriced)."""

    model: str
    requests: int
    usage: Usage
    cost_nano_usd: int | None


@dataclass(frozen=True)
class Bill:
    """Costs of one window; amounts are nano-USD, None when the engine has no price."""

    lines: Sequence[Line]
    idle_nano_usd: int | None
    total_nano_usd: int | None
    up_us: int
    busy_us: int


def weight(usage: Usage) -> int:
    """Work that a usage stands for, in units of a tenth of an uncached prompt token."""
    uncached = usage.prompt_tokens - usage.cached_tokens
    return PROMPT_WEIGHT * uncached + CACHED_WEIGHT * usage.cached_tokens + COMPLETION_WEIGHT * usage.completion_tokens


def make_bill(
    runs: Iterable[EngineRun], rows: Sequence[Mapping[str, Any]], *, base: str, since_us: int, until_us: int
) -> Bill:
    """Bill the window [since_us, until_us) to the models that used it; `rows` are the ledger's rows of that window."""
    inside = [(max(run.started_us, since_us), min(run.seen_us, until_us), run.nano_usd_per_hour) for run in runs]
    spans = [(start, end, price) for start, end, price in inside if end > start]
    up_us = sum(end - start for start, end, _ in spans)
    priced = all(price is not None for _, _, price in spans)
    total = (
        sum((end - start) * (price or 0) for start, end, price in spans) // _US_PER_HOUR if priced and spans else None
    )
    busy_us = min(up_us, _busy_us(rows, since_us, until_us))
    usages = usage_by_model(rows, base)
    active = (
        None if total is None else (total * busy_us // up_us if any(map(weight, map(_sum, usages.values()))) else 0)
    )
    shares = _split(active, {model: weight(_sum(all_of)) for model, all_of in usages.items()})
    lines = [Line(model, len(all_of), _sum(all_of), shares[model]) for model, all_of in sorted(usages.items())]
    idle = None if total is None or active is None else total - active
    return Bill(lines, idle, total, up_us, busy_us)


def usage_by_model(rows: Iterable[Mapping[str, Any]], base: str) -> dict[str, list[Usage]]:
    """The usage of each settled request, by adapter name, or under the base's name."""
    usages: dict[str, list[Usage]] = defaultdict(list)
    for row in rows:
        if row["state"] == "settled":
            usage = Usage(row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"])
            usages[row["adapter"] or base].append(usage)
    return dict(usages)


def _sum(usages: Iterable[Usage]) -> Usage:
    prompt, completion, cached = 0, 0, 0
    for usage in usages:
        prompt += usage.prompt_tokens
        completion += usage.completion_tokens
        cached += usage.cached_tokens
    return Usage(prompt, completion, cached)


def _split(amount: int | None, weights: Mapping[str, int]) -> dict[str, int | None]:
    """Divide an amount by weights so that the parts add up to it exactly: the largest remainders get the last units."""
    total = sum(weights.values())
    if amount is None or not total:
        return dict.fromkeys(weights, None if amount is None else 0)
    parts = {key: amount * part // total for key, part in weights.items()}
    by_remainder = sorted(weights, key=lambda key: (-(amount * weights[key] % total), key))
    for key in by_remainder[: amount - sum(parts.values())]:
        parts[key] += 1
    return {**parts}


def _busy_us(rows: Iterable[Mapping[str, Any]], since_us: int, until_us: int) -> int:
    """Time with at least one request running, summed over the engines."""
    by_engine: dict[str | None, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_engine[row["engine"]].append(row)
    return sum(_union_us(_clip(of_engine, since_us, until_us)) for of_engine in by_engine.values())


def _clip(rows: Iterable[Mapping[str, Any]], since_us: int, until_us: int) -> list[tuple[int, int]]:
    ends = ((row["opened_us"], row["settled_us"]) for row in rows if row["settled_us"] is not None)
    return [(max(start, since_us), min(end, until_us)) for start, end in ends]


def _union_us(intervals: Iterable[tuple[int, int]]) -> int:
    total, reached = 0, 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
