"""What the ledger has booked for one run of an engine, over the rows of all gateways.

What engines were booked with by rows that are about to be deleted: kept with their run.
"""

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select, update

from gateway.clock import DAY_US, HOUR_US
from gateway.metering import OWN_KEY, SHADOW_KEY, usage_ledger
from gateway.metering.reconcile.engine_counters import KINDS, CountedTokens, engine_counts
from gateway.metering.usage_queries import range_of

# A request may wait for its engine before the engine's run begins; no longer than an answer may take.
_WAITING_US = HOUR_US
_LONGEST_US = DAY_US


@dataclass(frozen=True)
class LedgerTotals:
    """Sums over rows. `surely` are tokens of requests that had ended by the moment asked for, `at_most` of all that had
    begun; `rows` counts by who asked (clients, turntable, shadow), `evidence` by how well the tokens are known.
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
    """The rows of a run that were opened from `opened[0]` to `opened[1]`, both included; `ended_us` is the moment by
    which they had surely ended.
    """
    row = usage_ledger.c
    whose = case((row.key_id == OWN_KEY, OWN_KEY), (row.key_id == SHADOW_KEY, SHADOW_KEY), else_="clients")
    has_ended = case((or_(row.settled_us <= ended_us, row.state == "interrupted"), 1), else_=0)
    sums = (
        func.sum(func.coalesce(row.prompt_tokens, 0) * row.choices),
        func.sum(func.coalesce(row.cached_tokens, 0) * row.choices),
        func.sum(func.coalesce(row.completion_tokens, 0)),
    )
    query = select(whose, func.coalesce(row.evidence, "none"), has_ended, func.count(), *sums)
    query = query.where(row.engine_run == run, row.opened_us >= opened[0], row.opened_us <= opened[1])
    found = LedgerTotals()
    for who, evidence, ended, count, *tokens in connection.execute(query.group_by(*range_of(3))):
        these = CountedTokens(*map(int, tokens))
        found += LedgerTotals(
            these if ended else CountedTokens(), these, Counter({who: count}), Counter({evidence: count})
        )
    return found


def begin_us(first_us: int) -> int:
    """From when on rows of a run may have been opened that was first seen then."""
    return first_us - _WAITING_US


def running(connection: Connection, run: str, opened_until_us: int) -> int:
    """Requests that are open and may be on this run: an open row may not say yet where it is."""
    row = usage_ledger.c
    here: ColumnElement[bool] = or_(row.engine_run == run, row.engine_run.is_(None))
    recent = and_(row.opened_us <= opened_until_us, row.opened_us > opened_until_us - _LONGEST_US)
    return int(connection.execute(select(func.count()).where(row.state == "open", here, recent)).scalar_one())


def keep_booked(connection: Connection, before_us: int) -> None:
    """Add the tokens of all rows opened before a moment to their runs, in the transaction that deletes the rows."""
    row, count = usage_ledger.c, engine_counts.c
    sums = [
        func.sum(func.coalesce(row.prompt_tokens, 0) * row.choices),
        func.sum(func.coalesce(row.cached_tokens, 0) * row.choices),
        func.sum(func.coalesce(row.completion_tokens, 0)),
    ]
    query = select(row.engine_run, func.count(), *sums).where(row.opened_us < before_us, row.engine_run.is_not(None))
    for run, rows, *tokens in connection.execute(query.group_by(row.engine_run)).all():
        values = {f"pruned_{kind}": count[f"pruned_{kind}"] + int(n) for kind, n in zip(KINDS, tokens, strict=True)}
        values["pruned_rows"] = count.pruned_rows + rows
        connection.execute(update(engine_counts).where(count.run == run).values(values))
