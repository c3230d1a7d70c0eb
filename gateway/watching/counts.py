"""Counts of what live answers were like, by version and day: all that is kept of a watched answer."""

import time
from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Engine, delete, func, select

from gateway.watching.tables import inserting, watched_answers

Key = tuple[str, str, int, str, str]
"""Adapter, digest, day, measure, bucket."""
_KEY = ("adapter", "digest", "day", "measure", "bucket")
_KEPT_DAYS = 400


def today() -> int:
    """The day in UTC, counted from the epoch."""
    return int(time.time()) // 86_400


class AnswerCounts:
    """The table of counts, to which several gateways may add; methods block."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def add(self, counts: Mapping[Key, int]) -> None:
        """Add to what is there."""
        if not counts:
            return
        # In one order everywhere, or two gateways could wait for each other's rows.
        rows = [{**dict(zip(_KEY, key, strict=True)), "answers": number} for key, number in sorted(counts.items())]
        with self._database.begin() as connection:
            insert = inserting(connection, watched_answers)
            total = watched_answers.c.answers + insert.excluded.answers
            connection.execute(insert.on_conflict_do_update(index_elements=_KEY, set_={"answers": total}), rows)

    def read(self, adapter: str, digest: str, since_day: int) -> dict[str, Counter[str]]:
        """Buckets of every measure of a version since a day, that day included."""
        table = watched_answers.c
        query = (
            select(table.measure, table.bucket, func.sum(table.answers).label("answers"))
            .where(table.adapter == adapter, table.digest == digest, table.day >= since_day)
            .group_by(table.measure, table.bucket)
        )
        found: dict[str, Counter[str]] = {}
        with self._database.connect() as connection:
            for row in connection.execute(query):
                found.setdefault(row.measure, Counter())[row.bucket] = int(row.answers)
        return found

    def prune(self) -> None:
        """Forget what is older than a year and a bit."""
        with self._database.begin() as connection:
            connection.execute(delete(watched_answers).where(watched_answers.c.day < today() - _KEPT_DAYS))
