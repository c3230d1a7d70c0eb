"""Time: integer microseconds since the epoch (UTC), their ISO 8601 texts, and the parsing of such texts.

Every stored time and every time in a signature ending in `_us` has this unit.
"""

import time
from datetime import UTC, date, datetime, timedelta

from gateway.errors import InvalidRequestError

SECOND_US = 10**6
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now_us() -> int:
    """Return the present time."""
    return time.time_ns() // 1_000


def utc_datetime(at_us: int) -> datetime:
    """Convert microseconds to an aware datetime in UTC, exactly."""
    return _EPOCH + at_us * _MICROSECOND


def to_us(moment: datetime) -> int:
    """Convert a datetime to microseconds, exactly; a naive one is taken as UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def iso(at_us: int, timespec: str = "auto") -> str:
    """Format a time like `2027-01-01T10:00:00+00:00`; `timespec` as in `datetime.isoformat`."""
    return utc_datetime(at_us).isoformat(timespec=timespec)


def iso_or_none(at_us: int | None) -> str | None:
    """Format a time as `iso` does; None stays None."""
    return None if at_us is None else iso(at_us)


def iso_z(at_us: int, timespec: str = "seconds") -> str:
    """Format a time with the suffix Z for UTC, like `2027-01-01T10:00:00Z`."""
    return iso(at_us, timespec).removesuffix("+00:00") + "Z"


def iso_date(at_us: int) -> str:
    """Format the UTC day of a time, like `2027-01-01`."""
    return utc_datetime(at_us).date().isoformat()


def day_number(day: date) -> int:
    """Count the days from the epoch to a date."""
    return (day - _EPOCH.date()).days


def date_of(day: int) -> date:
    """Return the date of a day counted since the epoch."""
    return _EPOCH.date() + timedelta(days=day)


def parse_moment(text: str | None) -> datetime:
    """Parse a time given on the command line as ISO 8601, UTC unless it has an offset; None means now.

    Raises `InvalidRequestError`.
    """
    if text is None:
        return datetime.now(UTC)
    return _parsed(text, example="2027-01-01", param=None)


def parse_us(text: str | None, param: str) -> int | None:
    """Parse the time in the query parameter `param` as ISO 8601, UTC unless it has an offset; None stays None.

    Raises `InvalidRequestError`.
    """
    return None if text is None else to_us(_parsed(text, example="2026-11-22T10:00:00Z", param=param))


def _parsed(text: str, *, example: str, param: str | None) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError(f"'{text}' is not an ISO 8601 time; write it like {example}.", param=param) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
