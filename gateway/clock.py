"""Moments as they are given on the command line.

Times in query strings: ISO 8601, UTC unless an offset says otherwise.
"""

from datetime import UTC, datetime, timedelta

from gateway.errors import InvalidRequestError


def moment(text: str | None) -> datetime:
    """A moment in UTC; now when nothing is given."""
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError(f"'{text}' is no time; write it like 2027-01-01.") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_us(text: str | None, param: str) -> int | None:
    """Microseconds since the epoch, exactly; None for nothing."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError(f"'{text}' is no time; write it like 2026-11-22T10:00:00Z.", param=param) from error
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
