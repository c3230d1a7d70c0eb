"""Moments as they are given on the command line."""

from datetime import UTC, datetime

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
