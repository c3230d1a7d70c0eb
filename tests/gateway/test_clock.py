"""Times are exact in both directions, and their texts parse back."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import (
    DAY_US,
    date_of,
    day_number,
    iso,
    iso_date,
    iso_or_none,
    iso_z,
    now_us,
    parse_moment,
    parse_us,
    to_us,
    utc_datetime,
)
from gateway.errors import InvalidRequestError

times = st.integers(0, 10**17)


@given(times)
def test_a_time_survives_every_text_and_the_way_back(at_us: int) -> None:
    assert to_us(utc_datetime(at_us)) == at_us
    assert parse_us(iso(at_us), "since") == at_us
    assert parse_us(iso_z(at_us, "microseconds"), "since") == at_us
    assert iso_date(at_us) == iso(at_us)[:10] == date_of(at_us // DAY_US).isoformat()
    assert day_number(date_of(at_us // DAY_US)) == at_us // DAY_US


def test_texts() -> None:
    at_us = to_us(datetime(2027, 1, 2, 3, 4, 5, 678, tzinfo=UTC))
    assert iso(at_us) == "2027-01-02T03:04:05.000678+00:00"
    assert iso(at_us, "seconds") == "2027-01-02T03:04:05+00:00"
    assert iso_z(at_us) == "2027-01-02T03:04:05Z"
    assert (iso_or_none(None), iso_or_none(0)) == (None, "1970-01-01T00:00:00+00:00")


def test_a_time_without_an_offset_is_utc() -> None:
    assert parse_us("2027-01-01", "since") == to_us(datetime(2027, 1, 1)) == day_number(date(2027, 1, 1)) * DAY_US
    assert parse_us("2027-01-01T02:00:00+02:00", "since") == parse_us("2027-01-01", "since")
    assert parse_moment("2027-01-01") == datetime(2027, 1, 1, tzinfo=UTC)
    assert parse_moment("2027-01-01T00:00+01:00") == datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=1)))


def test_no_time_given() -> None:
    assert parse_us(None, "since") is None
    assert abs(to_us(parse_moment(None)) - now_us()) < 10**7


def test_what_is_not_a_time_is_refused_with_an_example() -> None:
    with pytest.raises(InvalidRequestError, match="'yesterday' is not an ISO 8601 time; write it like 2026") as refused:
        parse_us("yesterday", "until")
    assert refused.value.param == "until"
    with pytest.raises(InvalidRequestError, match="write it like 2027-01-01") as refused:
        parse_moment("soon")
    assert refused.value.param is None
