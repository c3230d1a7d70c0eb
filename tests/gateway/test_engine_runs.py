"""Engine runs: begun when an engine is up, extended while it is, ended by its absence; on each kind of database."""

from sqlalchemy import Engine

from gateway.engine_runs import EngineRuns


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
