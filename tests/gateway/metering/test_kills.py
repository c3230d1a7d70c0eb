"""`kill -9` of a gateway at random moments under load: nothing is lost, nothing is booked twice."""

from pathlib import Path

from tests.gateway.metering.kills import kill_again_and_again


def test_twenty_kills_lose_no_request_and_no_token_and_book_none_twice(tmp_path: Path) -> None:
    outcome = kill_again_and_again(tmp_path, f"sqlite:///{tmp_path}/turntable.db", kills=20, seed=20)
    assert outcome.is_clean, outcome
    assert "open" not in outcome.rows
    assert outcome.rows["interrupted"] > 0, "some requests were cut off, or this tests nothing"
    assert outcome.rows["settled"] > 0
    assert outcome.requests_seen_by_engine > 20
