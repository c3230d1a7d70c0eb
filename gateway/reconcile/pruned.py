"""What engines were booked with by rows that are about to be deleted: kept with their run."""

from sqlalchemy import Connection, func, select, update

from gateway.ledger import usage_ledger
from gateway.reconcile.counts import KINDS, engine_counts


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
