"""Engine runs: begun when an engine is up, extended while it is, ended by its absence; on each kind of database."""

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from gateway.clock import now_us
from gateway.metering.engine_uptime import EngineRuns


def test_a_heartbeat_extends_the_run_of_an_engine_that_is_still_up(database: Engine) -> None:
    runs = EngineRuns(database, lambda _: 100_000_000)
    runs.heartbeat(["a", "b"])
    began = {run.engine: run.started_us for run in runs.list()}
    runs.heartbeat(["a", "b"])
    after = runs.list()
    assert {run.engine: run.started_us for run in after} == began
    assert all(run.seen_us >= run.started_us for run in after)
    assert {run.nano_usd_per_hour for run in after} == {100_000_000}


def test_an_engine_that_was_down_begins_a_new_run(database: Engine) -> None:
    runs = EngineRuns(database, lambda _: None)
    runs.heartbeat(["a"])
    runs.heartbeat([])
    runs.heartbeat(["a"])
    assert [(run.engine, run.nano_usd_per_hour) for run in runs.list()] == [("a", None), ("a", None)]


def test_another_gateway_reads_the_runs_and_begins_its_own(database: Engine) -> None:
    EngineRuns(database, lambda _: None).heartbeat(["a"])
    second = EngineRuns(database, lambda _: None)
    second.heartbeat(["a"])
    assert len(second.list()) == 2


def test_the_time_of_an_engine_is_billed_whole_although_the_database_was_away_when_it_came_up(database: Engine) -> None:
    runs = EngineRuns(database, lambda _: 100)
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE engine_runs RENAME TO away"))
    before = now_us()
    for up in (["a"], ["a", "b"], ["b"]):  # a went before anybody could note it
        with pytest.raises(DBAPIError):
            runs.heartbeat(up)
    after = now_us()
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO engine_runs"))
    runs.heartbeat(["b"])
    found = {run.engine: run for run in EngineRuns(database, lambda _: None).list()}
    assert before <= found["a"].started_us < found["a"].seen_us <= after
    assert before <= found["b"].started_us <= after < found["b"].seen_us


def test_a_commit_that_came_through_unheard_is_no_second_run(database: Engine) -> None:
    runs = EngineRuns(database, lambda _: 100)
    runs.heartbeat(["a"])
    runs._open["a"].id = None  # as it is when the answer to the commit was lost
    runs.heartbeat(["a"])
    assert len(runs.list()) == 1


def test_a_run_whose_row_is_gone_is_written_again(database: Engine) -> None:
    runs = EngineRuns(database, lambda _: 100)
    runs.heartbeat(["a"])
    (began,) = runs.list()
    with database.begin() as connection:
        connection.execute(text("DELETE FROM engine_runs"))
    runs.heartbeat(["a"])
    assert [run.started_us for run in runs.list()] == [began.started_us]


def test_a_new_price_begins_a_new_run_where_the_old_one_ends(database: Engine) -> None:
    prices = iter([1, 1, 2])
    runs = EngineRuns(database, lambda _: next(prices))
    for _ in range(3):
        runs.heartbeat(["a"])
    first, second = runs.list()
    assert (first.nano_usd_per_hour, second.nano_usd_per_hour) == (1, 2)
    assert first.seen_us == second.started_us
