"""Usage sums: past hours are summed once and kept, the rest is summed from the ledger; both agree to the token.

An hour is closed some time after its end, once none of its requests is running. Rows that appear in a closed hour later
(the clock was set back), or are settled there although they were taken for lost, change its row counts, and the hours
from there on are summed again; code that changes a row's tokens without settling it calls `reopen_hour`. Hours whose
rows were pruned (`retention.py`) only have sums.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Select, case, delete, func, insert, select, update

from gateway.clock import DAY_US, HOUR_US, SECOND_US, now_us
from gateway.metering import usage_queries
from gateway.metering.tables import engine_hours, usage_hours, usage_ledger, usage_summed
from gateway.metering.usage_queries import TimeSpan, UsageSums, merge_sums

_SETTLING_US = 5 * 60 * SECOND_US
_LONGEST_US = DAY_US
"""A request that is open for longer than this belongs to a gateway that died."""
_HOURS_AT_ONCE = 24
_ROWS_AT_ONCE = 5_000
_UNSETTLED = ("open", "interrupted")


@dataclass(frozen=True)
class UsageWindow:
    """Usage, busy time and adapter loads of a window, each by day since the epoch."""

    sums: list[UsageSums]
    busy_us: dict[tuple[int, str], int]
    load_us: dict[tuple[int, str, str], int]


def join_windows(windows: Sequence[UsageWindow]) -> UsageWindow:
    """Join consecutive windows."""
    busy, loads = Counter[tuple[int, str]](), Counter[tuple[int, str, str]]()
    for window in windows:
        busy.update(window.busy_us)
        loads.update(window.load_us)
    return UsageWindow(merge_sums(sums for window in windows for sums in window.sums), dict(busy), dict(loads))


class UsageSummary:
    """Sums the usage ledger of one database; methods block. `flush` folds pending rows first."""

    def __init__(self, database: Engine, flush: Callable[[], object] = lambda: None) -> None:
        self._database = database
        self._flush = flush
        self._one_at_a_time = threading.Lock()

    def window(self, since_us: int, until_us: int) -> UsageWindow:
        """Return usage, busy time and adapter loads by day; where rows were pruned, whole hours."""
        self._flush()
        closed = self.close_hours()
        with self._database.connect() as connection:
            span, kept_us = self._rounded(connection, (since_us, until_us))
            sums = self._sums(connection, span, closed, kept_us, DAY_US)
            busy = self._busy(connection, span, closed)
            return UsageWindow(sums, busy, usage_queries.load_us(connection, span, DAY_US))

    def hourly(self, since_us: int, until_us: int) -> list[UsageSums]:
        """Return usage by hour since the epoch, for prices that change within a day."""
        self._flush()
        closed = self.close_hours()
        with self._database.connect() as connection:
            span, kept_us = self._rounded(connection, (since_us, until_us))
            return self._sums(connection, span, closed, kept_us, HOUR_US)

    def kept_from_us(self) -> int:
        """Return the time from which there are raw rows; before it there are only hourly sums."""
        with self._database.connect() as connection:
            return int(connection.execute(select(usage_summed.c.kept_from_hour)).scalar_one()) * HOUR_US

    def booked_nano_usd(self, since_us: int, until_us: int) -> int | None:
        """Sum the booked costs of clients' requests in a window; None when rows of it were pruned."""
        with self._database.connect() as connection:
            span, kept_us = self._rounded(connection, (since_us, until_us))
            return None if span[0] < kept_us else usage_queries.booked_nano_usd(connection, span)

    def first_us(self) -> int | None:
        """Return when the oldest request was opened; None without any."""
        with self._database.connect() as connection:
            row = connection.execute(select(func.min(usage_ledger.c.opened_us))).scalar()
            hour = connection.execute(select(func.min(usage_hours.c.hour))).scalar()
        if row is None or hour is None:
            return row if hour is None else int(hour) * HOUR_US
        return int(row) if row // HOUR_US <= hour else int(hour) * HOUR_US

    @staticmethod
    def _rounded(connection: Connection, span: TimeSpan) -> tuple[TimeSpan, int]:
        """Round a window to whole hours where rows were pruned; also return the time from which there are raw rows."""
        kept_us = connection.execute(select(usage_summed.c.kept_from_hour)).scalar_one() * HOUR_US
        since = span[0] // HOUR_US * HOUR_US if span[0] < kept_us else span[0]
        return (since, -(-span[1] // HOUR_US) * HOUR_US if span[1] < kept_us else span[1]), kept_us

    def _sums(
        self, connection: Connection, span: TimeSpan, closed: int, kept_us: int, period_us: int
    ) -> list[UsageSums]:
        first, last = -(-span[0] // HOUR_US), min(span[1] // HOUR_US, closed)
        if first >= last:
            return usage_queries.ledger_sums(connection, span, period_us)
        return merge_sums([
            # Late rows of pruned hours, which are not in the sums yet.
            *usage_queries.ledger_sums(connection, (span[0], min(span[1], kept_us)), period_us),
            *usage_queries.ledger_sums(connection, (span[0], first * HOUR_US), period_us),
            *usage_queries.hour_sums(connection, (first, last), period_us),
            *usage_queries.ledger_sums(connection, (last * HOUR_US, span[1]), period_us),
        ])  # fmt: skip

    def _busy(self, connection: Connection, span: TimeSpan, closed: int) -> dict[tuple[int, str], int]:
        busy: dict[tuple[int, str], int] = defaultdict(int)
        first, last = -(-span[0] // HOUR_US), min(span[1] // HOUR_US, closed)
        if first < last:
            row = engine_hours.c
            day = (row.hour // (DAY_US // HOUR_US)).label("day")
            query = select(day, row.engine, func.sum(row.busy_us)).where(row.hour >= first, row.hour < last)
            for at, engine, us in connection.execute(query.group_by(*usage_queries.group_by_positions(2))):
                busy[at, engine] += int(us)
            live = [(span[0], first * HOUR_US), (last * HOUR_US, span[1])]
        else:
            live = [span]
        for low, high in live:
            for part in _days(low, high):
                begin = min(part[0] // HOUR_US, closed)
                carried = usage_queries.busy_until_us(connection, begin)
                for engine, us in usage_queries.busy_us(connection, begin * HOUR_US, part, carried).items():
                    busy[part[0] // DAY_US, engine] += us
        return {key: us for key, us in busy.items() if us}

    def close_hours(self) -> int:
        """Sum the hours that are over; returns the hour up to which all are closed."""
        with self._one_at_a_time:
            with self._database.begin() as connection:
                done, end = self.verify_closed(connection), self._closable(connection)
            while done < end:
                with self._database.begin() as connection:
                    done = self._close(connection, done, min(end, done + _HOURS_AT_ONCE))
            return done

    @staticmethod
    def _closable(connection: Connection) -> int:
        now = now_us()
        running = select(func.min(usage_ledger.c.opened_us)).where(
            usage_ledger.c.state == "open", usage_ledger.c.opened_us > now - _LONGEST_US
        )
        oldest = connection.execute(running).scalar()
        return min(now - _SETTLING_US, now if oldest is None else oldest) // HOUR_US

    @staticmethod
    def verify_closed(connection: Connection) -> int:
        """Return the first hour that is not closed; late rows reopen the hours from theirs on."""
        until, summed, unsettled, kept_from = connection.execute(
            select(
                usage_summed.c.until_hour,
                usage_summed.c.requests,
                usage_summed.c.unsettled,
                usage_summed.c.kept_from_hour,
            ).with_for_update()
        ).one()
        row = usage_ledger.c
        if not until:
            oldest = connection.execute(select(func.min(row.opened_us))).scalar()
            return now_us() // HOUR_US if oldest is None else int(oldest // HOUR_US)
        closed = (row.opened_us >= kept_from * HOUR_US, row.opened_us < until * HOUR_US)
        count = connection.execute(select(func.count()).where(*closed)).scalar_one()
        open_count = connection.execute(select(func.count()).where(row.state.in_(_UNSETTLED), *closed)).scalar_one()
        if (count, open_count) == (summed, unsettled):
            return int(until)
        hour, is_unsettled = (row.opened_us // HOUR_US).label("hour"), case((row.state.in_(_UNSETTLED), 1), else_=0)
        of_rows = select(hour, func.count(), func.sum(is_unsettled)).where(*closed)
        in_ledger = _counts(connection, of_rows.group_by(*usage_queries.group_by_positions(1)))
        hours = usage_hours.c
        of_sums = select(hours.hour, func.sum(hours.requests), func.sum(hours.unsettled)).where(hours.hour >= kept_from)
        in_sums = _counts(connection, of_sums.group_by(hours.hour))
        first = min(at for at in in_ledger.keys() | in_sums.keys() if in_ledger.get(at) != in_sums.get(at))
        _reopen_from(connection, kept_from, first)
        return first

    @staticmethod
    def _close(connection: Connection, begin: int, end: int) -> int:
        until = connection.execute(select(usage_summed.c.until_hour).with_for_update()).scalar_one()
        if until > begin:  # another gateway on this database closed them
            return int(until)
        sums = usage_queries.ledger_sums(connection, (begin * HOUR_US, end * HOUR_US), HOUR_US)
        carried = usage_queries.busy_until_us(connection, begin)
        engines, used = [], {each.period for each in sums}
        for hour in range(begin, end):
            span = (hour * HOUR_US, (hour + 1) * HOUR_US)
            if hour not in used and max(carried.values(), default=0) <= span[0]:
                continue
            busy = usage_queries.busy_us(connection, span[0], span, carried)
            for engine, until in usage_queries.last_end_us(connection, span).items():
                carried[engine] = max(until, carried.get(engine, 0))
            engines += [
                {"hour": hour, "engine": engine, "busy_us": us, "reached_us": carried[engine]}
                for engine, us in busy.items()
            ]
        rows = usage_queries.rows_of(sums)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            connection.execute(insert(usage_hours), rows[start : start + _ROWS_AT_ONCE])
        if engines:
            connection.execute(insert(engine_hours), engines)
        added = {
            name: usage_summed.c[name] + sum(getattr(each, name) for each in sums) for name in ("requests", "unsettled")
        }
        connection.execute(update(usage_summed).values(until_hour=end, **added))
        return end


def reopen_hour(connection: Connection, at_us: int) -> None:
    """Reopen the closed hours from a time on, because this transaction changes tokens of a row there.

    Call it before the change: it takes the lock that keeps the hours open until the transaction ends.
    """
    connection.execute(update(usage_summed).values(until_hour=usage_summed.c.until_hour))  # takes the lock everywhere
    until, kept_from = connection.execute(select(usage_summed.c.until_hour, usage_summed.c.kept_from_hour)).one()
    if kept_from <= at_us // HOUR_US < until:
        _reopen_from(connection, kept_from, at_us // HOUR_US)


def _reopen_from(connection: Connection, kept_from: int, hour: int) -> None:
    """Delete the sums from an hour on, to be made again."""
    for table in (usage_hours, engine_hours):
        connection.execute(delete(table).where(table.c.hour >= hour))
    sums = [func.coalesce(func.sum(usage_hours.c[name]), 0) for name in ("requests", "unsettled")]
    requests, unsettled = connection.execute(select(*sums).where(usage_hours.c.hour >= kept_from)).one()
    values = {"requests": int(requests), "unsettled": int(unsettled)}
    connection.execute(update(usage_summed).values(until_hour=hour, **values))


def _counts(connection: Connection, query: Select[Any]) -> dict[int, tuple[int, int]]:
    """Return the numbers of all and of unsettled requests by hour; hours without requests are absent."""
    return {int(at): (int(count), int(open_)) for at, count, open_ in connection.execute(query) if count}


def _days(low: int, high: int) -> Iterable[TimeSpan]:
    while low < high:
        end = min(high, (low // DAY_US + 1) * DAY_US)
        yield low, end
        low = end
