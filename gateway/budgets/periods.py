"""Periods of budgets: which day each began on, by UTC, and when it renews."""

from datetime import UTC, date, datetime, timedelta

from gateway.keys import Period

DAY_US = 86_400 * 10**6
_EPOCH = date(1970, 1, 1)


def first_day(period: Period, day: int) -> int:
    """The first day of the period that a day (counted since the epoch) lies in; 0 for the one that never ends."""
    match period:
        case Period.DAY:
            return day
        case Period.MONTH:
            return (_date(day).replace(day=1) - _EPOCH).days
        case Period.TOTAL:
            return 0


def renews_at(period: Period, first: int) -> datetime | None:
    """When the period that began on day `first` is over; None for the one that never is."""
    match period:
        case Period.DAY:
            after = _date(first) + timedelta(days=1)
        case Period.MONTH:
            after = (_date(first) + timedelta(days=31)).replace(day=1)
        case Period.TOTAL:
            return None
    return datetime(after.year, after.month, after.day, tzinfo=UTC)


def last_day(period: Period, first: int) -> int | None:
    """The last day of the period that began on day `first`; None for the one without."""
    after = renews_at(period, first)
    return None if after is None else (after.date() - _EPOCH).days - 1


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=day)
