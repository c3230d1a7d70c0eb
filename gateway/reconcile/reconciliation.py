"""Judging runs of engines: all of them when somebody asks, the running ones again and again."""

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Engine, func, select

from gateway.ledger import now_us, usage_ledger
from gateway.reconcile.booked import Booked, begin_us, booked, running
from gateway.reconcile.counts import EngineCounts, Run
from gateway.reconcile.verdict import Judgement, judge

_READ_AGAIN_US = 3600 * 10**6


class Reconciliation:
    """Compares the ledger of one database with what engines counted; methods block. `flush` brings rows there."""

    def __init__(self, database: Engine, counts: EngineCounts, flush: Callable[[], object]) -> None:
        self._database = database
        self._counts = counts
        self._flush = flush
        self._known: dict[str, tuple[int, int, Booked]] = {}

    def judge_all(self, since_us: int) -> list[Judgement]:
        """Every run of an engine that was seen since then, from all its rows, the newest first."""
        self._flush()
        return [self._judge(run, Booked(), begin_us(run.first_us)) for run in self._counts.list(since_us)]

    def judge_again(self, run: Run) -> Judgement:
        """The same for a run that goes on: rows read before are not read again for an hour."""
        self._flush()
        began_us, read_until_us, known = self._known.get(run.run, (0, 0, Booked()))
        if now_us() - began_us > _READ_AGAIN_US:
            began_us, read_until_us, known = now_us(), begin_us(run.first_us), Booked()
        judgement = self._judge(run, known, read_until_us)
        if not judgement.running:  # all rows opened until then have ended, so their sums are final
            final = replace(judgement.booked, surely=judgement.booked.at_most)
            recent = {name: one for name, one in self._known.items() if now_us() - one[1] < _READ_AGAIN_US}
            self._known = recent | {run.run: (began_us, run.seen_us + 1, final)}
        return judgement

    def unattributed(self, since_us: int) -> int:
        """Interrupted rows that do not say which engine they were on, if they reached one."""
        row = usage_ledger.c
        lost = (row.state == "interrupted", row.engine_run.is_(None), row.opened_us >= since_us)
        with self._database.connect() as connection:
            return int(connection.execute(select(func.count()).where(*lost)).scalar_one())

    def _judge(self, run: Run, known: Booked, from_us: int) -> Judgement:
        with self._database.connect() as connection:
            open_rows = running(connection, run.run, run.seen_us)
            return judge(run, known + booked(connection, run.run, (from_us, run.seen_us), run.asked_us), open_rows)
