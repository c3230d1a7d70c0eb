"""SQL that sums the ledger: requests and tokens by who used them, and the busy time of engines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, literal, not_, or_, select, text, union_all

from gateway.clock import HOUR_US
from gateway.core import SHADOW_SUFFIX
from gateway.metering import OWN_KEY, OWN_LABEL, SHADOW_KEY, Finish
from gateway.metering.tables import adapter_loads, engine_hours, usage_hours, usage_ledger

SHORT_PROMPT = 16_000
"""Requests with prompts up to this many tokens are summed; longer ones are kept apart by length, for tiered prices."""
WHO = ("engine", "adapter", "tenant", "key_id", "long_prompt")
COUNTS = ("requests", "unsettled", "prompt_tokens", "cached_tokens", "completion_tokens", "unanswered")
OWN_KEYS = frozenset({OWN_KEY, SHADOW_KEY})
"""Keys of requests that no client sent: the gateway's own, and shadow requests."""
TimeSpan = tuple[int, int]
"""Begin (inclusive) and end (exclusive)."""


@dataclass(frozen=True, slots=True)
class UsageSums:
    """Requests and tokens of one period (an hour or a day, counted from the epoch), engine, adapter, tenant and key.

    `adapter` is empty for the base model, `engine` for requests that reached none. `long_prompt` is 0, or the length of
    all prompts in this sum, in tokens.
    """

    period: int
    engine: str
    adapter: str
    tenant: str
    key_id: str
    long_prompt: int
    requests: int
    unsettled: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    unanswered: int = 0
    """Settled without an answer: refused or failed."""

    @property
    def answered(self) -> int:
        """Number of requests that were answered, also those whose client left in the middle."""
        return self.requests - self.unsettled - self.unanswered


def client_sums(sums: Iterable[UsageSums]) -> list[UsageSums]:
    """Keep the sums of clients' requests, without the gateway's own and shadow requests."""
    return [each for each in sums if each.key_id not in OWN_KEYS]


def merge_sums(sums: Iterable[UsageSums]) -> list[UsageSums]:
    """Add up the sums of the same keys."""
    found: dict[tuple[int, str, str, str, str, int], UsageSums] = {}
    for each in sums:
        key = (each.period, each.engine, each.adapter, each.tenant, each.key_id, each.long_prompt)
        before = found.get(key)
        found[key] = each if before is None else add_sums(before, each)
    return list(found.values())


def add_sums(left: UsageSums, right: UsageSums) -> UsageSums:
    """Add two sums, under the keys of the first."""
    return replace(left, **{name: getattr(left, name) + getattr(right, name) for name in COUNTS})


def ledger_sums(connection: Connection, span: TimeSpan, period_us: int) -> list[UsageSums]:
    """Sum the ledger's rows of a window by period."""
    row = usage_ledger.c
    prompt = func.coalesce(row.prompt_tokens, 0)
    own, shadow = (row.key_id == OWN_KEY, OWN_LABEL), (row.key_id == SHADOW_KEY, row.adapter + SHADOW_SUFFIX)
    keys = [
        (row.opened_us // period_us).label("period"),
        func.coalesce(row.engine, "").label("engine"),
        case(own, shadow, else_=func.coalesce(row.adapter, "")).label("adapter"),
        row.tenant,
        row.key_id,
        case((prompt > SHORT_PROMPT, prompt), else_=0).label("long_prompt"),
    ]
    counts: list[ColumnElement[Any]] = [func.count(), func.sum(case((row.state == "settled", 0), else_=1))]
    counts += [func.sum(func.coalesce(row[name], 0)) for name in COUNTS[2:5]]
    is_cut_off = row.finish.in_((Finish.CLIENT_ABORT, Finish.SHUTDOWN))
    is_answer = or_(row.finish == Finish.COMPLETED, and_(is_cut_off, prompt > 0))
    counts.append(func.sum(case((and_(row.state == "settled", not_(is_answer)), 1), else_=0)))
    query = select(*keys, *counts).where(row.opened_us >= span[0], row.opened_us < span[1])
    return _sums(connection, query.group_by(*group_by_positions(len(keys))))


def booked_nano_usd(connection: Connection, span: TimeSpan) -> int:
    """Sum the costs with which clients' requests were booked as they ended."""
    row = usage_ledger.c
    query = select(func.coalesce(func.sum(row.cost_nano_usd), 0)).where(
        row.opened_us >= span[0], row.opened_us < span[1], row.key_id.not_in(OWN_KEYS)
    )
    return int(connection.execute(query).scalar_one())


def hour_sums(connection: Connection, hours: TimeSpan, period_us: int) -> list[UsageSums]:
    """Sum closed hours by period; `hours` counts from the epoch."""
    row = usage_hours.c
    period = (row.hour // (period_us // HOUR_US)).label("period")
    query = select(period, *(row[name] for name in WHO), *(func.sum(row[name]) for name in COUNTS))
    query = query.where(row.hour >= hours[0], row.hour < hours[1])
    return _sums(connection, query.group_by(*group_by_positions(1 + len(WHO))))


def group_by_positions(count: int) -> list[Any]:
    """Return the GROUP BY positions 1..count: both databases then do not compute the expressions again."""
    return [text(str(place)) for place in range(1, count + 1)]


def _sums(connection: Connection, query: Select[Any]) -> list[UsageSums]:
    return [UsageSums(*row[:6], *map(int, row[6:])) for row in connection.execute(query)]


def busy_until_us(connection: Connection, before_hour: int) -> dict[str, int]:
    """Return when the work that began before an hour ended, by engine."""
    query = select(engine_hours.c.engine, func.max(engine_hours.c.reached_us))
    query = query.where(engine_hours.c.hour < before_hour).group_by(engine_hours.c.engine)
    return {engine: int(until) for engine, until in connection.execute(query)}


def busy_us(connection: Connection, begin_us: int, span: TimeSpan, carried: Mapping[str, int]) -> dict[str, int]:
    """Measure the time within a span in which each engine answered requests or loaded adapters; overlaps count once.

    `carried` holds the end of work that began before `begin_us`, by engine. The union of intervals is taken in one pass
    in order of their begin: the part beyond the latest end so far is new.
    """
    low, high = span
    least, most = _min_max(connection)
    work = _busy_intervals(begin_us, high)
    begin = most(work.c.begin_us, literal(low)).label("begin_us")
    end = least(work.c.end_us, literal(high)).label("end_us")
    clipped = select(work.c.engine, begin, end).subquery()
    carry: ColumnElement[Any] = case(
        *((clipped.c.engine == engine, min(until, high)) for engine, until in carried.items()), else_=low
    ) if carried else literal(low)  # fmt: skip
    before = func.max(clipped.c.end_us).over(
        partition_by=clipped.c.engine, order_by=(clipped.c.begin_us, clipped.c.end_us), rows=(None, -1)
    )
    known = most(func.coalesce(before, low), carry)
    pieces = select(clipped.c.engine, most(clipped.c.end_us - most(clipped.c.begin_us, known), literal(0)).label("us"))
    summed = pieces.subquery()
    total = select(summed.c.engine, func.sum(summed.c.us)).group_by(summed.c.engine)
    busy = {engine: max(0, min(until, high) - low) for engine, until in carried.items()}
    for engine, us in connection.execute(total):
        busy[engine] = busy.get(engine, 0) + int(us)
    return {engine: us for engine, us in busy.items() if us}


def last_end_us(connection: Connection, span: TimeSpan) -> dict[str, int]:
    """Return when the last work that began in a span ended, by engine."""
    work = _busy_intervals(*span)
    query = select(work.c.engine, func.max(work.c.end_us)).group_by(work.c.engine)
    return {engine: int(end) for engine, end in connection.execute(query)}


def load_us(connection: Connection, span: TimeSpan, period_us: int) -> dict[tuple[int, str, str], int]:
    """Sum the time spent loading adapters, by period, engine and adapter."""
    row = adapter_loads.c
    period = (row.at_us // period_us).label("period")
    query = select(period, row.engine, row.adapter, func.sum(row.load_us))
    query = query.where(row.at_us >= span[0], row.at_us < span[1]).group_by(*group_by_positions(3))
    return {(int(at), engine, adapter): int(us) for at, engine, adapter, us in connection.execute(query)}


def _busy_intervals(begin_us: int, until_us: int) -> Any:
    """Select engine, begin and end of the requests and adapter loads that began in a span."""
    row, load = usage_ledger.c, adapter_loads.c
    requests = select(
        func.coalesce(row.engine, "").label("engine"),
        row.opened_us.label("begin_us"),
        row.settled_us.label("end_us"),
    ).where(row.opened_us >= begin_us, row.opened_us < until_us, row.settled_us > row.opened_us)
    loads = select(load.engine, load.at_us, load.at_us + load.load_us).where(
        load.at_us >= begin_us, load.at_us < until_us
    )
    return union_all(requests, loads).subquery()


def _min_max(connection: Connection) -> tuple[Any, Any]:
    """Return the SQL functions for the smaller and the larger of two values."""
    if connection.dialect.name == "sqlite":
        return func.min, func.max
    return func.least, func.greatest


def rows_of(sums: Sequence[UsageSums]) -> list[dict[str, Any]]:
    """Convert hourly sums to rows of `usage_hours`."""
    return [{"hour": each.period} | {name: getattr(each, name) for name in (*WHO, *COUNTS)} for each in sums]
