"""The ledger's token totals for one run of an engine, over the rows of all gateways."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select, update

from gateway.clock import DAY_US, HOUR_US
from gateway.metering import OWN_KEY, SHADOW_KEY
from gateway.metering.reconcile.engine_counters import CountedTokens
from gateway.metering.tables import TOKEN_KINDS, engine_counts, usage_ledger
from gateway.metering.usage_queries import group_by_positions

_MOST_WAITING_US = HOUR_US
"""How long before the first reading of a run a row of it may have been opened: while its engine was starting."""
_MOST_RUNNING_US = DAY_US


@dataclass(frozen=True)
class LedgerTotals:
    """Sums over rows.

    `surely` are tokens of requests that had ended by a given time, `at_most` of all that had begun; `rows` counts by
    who asked (clients, turntable, shadow), `evidence` by usage source.
    """

    surely: CountedTokens = field(default_factory=CountedTokens)
    at_most: CountedTokens = field(default_factory=CountedTokens)
    rows: Counter[str] = field(default_factory=Counter)
    evidence: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "LedgerTotals") -> "LedgerTotals":
        return LedgerTotals(
            self.surely + other.surely,
            self.at_most + other.at_most,
            self.rows + other.rows,
            self.evidence + other.evidence,
        )


def ledger_totals(connection: Connection, run: str, opened: tuple[int, int], ended_us: int) -> LedgerTotals:
    """Sum the rows of a run opened from `opened[0]` to `opened[1]`, both included.

    Rows settled by `ended_us` and interrupted ones count as ended.
    """
    row = usage_ledger.c
    asked_by = case((row.key_id == OWN_KEY, OWN_KEY), (row.key_id == SHADOW_KEY, SHADOW_KEY), else_="clients")
    has_ended = case((or_(row.settled_us <= ended_us, row.state == "interrupted"), 1), else_=0)
    query = select(asked_by, func.coalesce(row.evidence, "none"), has_ended, func.count(), *_engine_token_sums())
    query = query.where(row.engine_run == run, row.opened_us >= opened[0], row.opened_us <= opened[1])
    found = LedgerTotals()
    for who, source, ended, count, *tokens in connection.execute(query.group_by(*group_by_positions(3))):
        counted = CountedTokens(*map(int, tokens))
        found += LedgerTotals(
            counted if ended else CountedTokens(), counted, Counter({who: count}), Counter({source: count})
        )
    return found


def earliest_opened_us(first_us: int) -> int:
    """Return the earliest `opened_us` of rows that can belong to a run first read at `first_us`."""
    return first_us - _MOST_WAITING_US


def count_open(connection: Connection, run: str, opened_until_us: int) -> int:
    """Count the open rows that may belong to a run; an open row may not name its run yet."""
    row = usage_ledger.c
    may_belong: ColumnElement[bool] = or_(row.engine_run == run, row.engine_run.is_(None))
    recent = and_(row.opened_us <= opened_until_us, row.opened_us > opened_until_us - _MOST_RUNNING_US)
    return int(connection.execute(select(func.count()).where(row.state == "open", may_belong, recent)).scalar_one())


def keep_pruned_totals(connection: Connection, before_us: int) -> None:
    """Add the tokens of all rows opened before a time to their runs; call it in the transaction that deletes them."""
    row, count = usage_ledger.c, engine_counts.c
    query = select(row.engine_run, func.count(), *_engine_token_sums())
    query = query.where(row.opened_us < before_us, row.engine_run.is_not(None))
    for run, rows, *tokens in connection.execute(query.group_by(row.engine_run)).all():
        values = {
            f"pruned_{kind}": count[f"pruned_{kind}"] + int(n) for kind, n in zip(TOKEN_KINDS, tokens, strict=True)
        }
        values["pruned_rows"] = count.pruned_rows + rows
        connection.execute(update(engine_counts).where(count.run == run).values(values))


def _engine_token_sums() -> list[ColumnElement[Any]]:
    """Sum `TOKEN_KINDS` as engines count them: prompts once per choice."""
    row = usage_ledger.c
    return [
        func.sum(func.coalesce(row.prompt_tokens, 0) * row.choices),
        func.sum(func.coalesce(row.cached_tokens, 0) * row.choices),
        func.sum(func.coalesce(row.completion_tokens, 0)),
    ]
