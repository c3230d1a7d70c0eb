"""Background work goes on after any exception, and none is lost."""

import asyncio
import contextlib
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy.exc import OperationalError

from gateway.background import Background, BackgroundTaskError, Periodic
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import Attached, running_gateway, wait_until_ready
from tests.waiting import eventually, eventually_async


class Work:
    """Fails in the given ways, one after the other, and then works; `done` is set when it has worked."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.done = asyncio.Event()

    async def __call__(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        self.done.set()


class FailsForever(Work):
    """Fails each time; `done` is set when it has failed often enough for all to know."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def __call__(self) -> None:
        self.calls += 1
        if self.calls > 3:
            self.done.set()
        raise self.error


AWAY = OperationalError("SELECT 1", None, Exception("database is locked"))


async def test_periodic_work_goes_on_after_every_kind_of_exception(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    background = Background(registry)
    work = Work(KeyError("slot_bytes"), AWAY, asyncio.CancelledError(), RuntimeError("odd"))
    background.start([Periodic("keys", 0, work)])
    await work.done.wait()
    await background.close()
    assert 'turntable_background_failures_total{task="keys"} 4.0' in generate_latest(registry).decode()
    assert "background task 'keys' failed" in caplog.text
    assert "KeyError: 'slot_bytes'" in caplog.text
    assert "the database is unreachable" in caplog.text


async def test_work_that_keeps_failing_is_named_until_it_works_again() -> None:
    background, work = Background(), FailsForever(ValueError("x"))
    background.start([Periodic("costs", 0, work)])
    await work.done.wait()
    assert background.failing == ["costs"]
    background.require_healthy()  # it is not essential
    await background.close()
    assert background.failing == []


async def test_a_gateway_is_not_sound_while_work_fails_that_keeps_it_safe() -> None:
    background, work = Background(), FailsForever(ValueError("x"))
    background.start([Periodic("keys", 0, work, is_essential=True)])
    await work.done.wait()
    with pytest.raises(BackgroundTaskError, match="'keys'"):
        background.require_healthy()
    await background.close()


async def test_a_gateway_is_not_ready_while_an_essential_task_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.background._STUCK_S", -1.0)
    background, never = Background(), asyncio.Event()
    background.start([Periodic("keys", 0, never.wait, is_essential=True), Periodic("costs", 0, never.wait)])
    await asyncio.sleep(0)
    assert background.failing == ["keys"]
    with pytest.raises(BackgroundTaskError, match="'keys' hangs"):
        background.require_healthy()
    await background.close()


async def test_a_task_that_hangs_for_long_is_named_and_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.background._HUNG_S", -1.0)
    background, never = Background(), asyncio.Event()
    background.start([Periodic("keys", 0, never.wait, is_essential=True), Periodic("budgets", 0, never.wait)])
    await asyncio.sleep(0)
    assert background.failing == ["budgets"]
    background.require_healthy()
    await background.close()


async def test_a_task_whose_pause_cannot_be_told_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.background._MAX_RETRY_S", 0.0)
    registry = CollectorRegistry()
    background, work, pauses = Background(registry), Work(), [ValueError("x")]

    def pause_s() -> float:
        if pauses:
            raise pauses.pop()
        return 0.0

    background.start([Periodic("costs", pause_s, work)])
    assert await eventually_async(lambda: work.calls > 2)
    await background.close()
    assert 'turntable_background_failures_total{task="costs"} 1.0' in generate_latest(registry).decode()


async def test_an_unavailable_database_is_logged_but_does_not_make_the_gateway_unready() -> None:
    background, work = Background(), FailsForever(AWAY)
    background.start([Periodic("keys", 0, work, is_essential=True)])
    await work.done.wait()
    assert background.failing == ["keys"]
    background.require_healthy()
    await background.close()


async def test_the_same_failure_again_and_again_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    background, work = Background(), Work(*(ValueError("x") for _ in range(64)))
    background.start([Periodic("costs", 0, work)])
    await work.done.wait()
    await background.close()
    records = [record for record in caplog.records if record.name == "gateway.background"]
    assert [record.levelno for record in records].count(logging.ERROR) == 1
    assert len(records) < 10


async def test_an_exception_of_work_that_was_started_once_is_logged_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = CollectorRegistry()
    group = Background(registry).group("canary")

    async def fail() -> None:
        raise KeyError("bounds")

    group.start(fail())
    assert len(group) == 1
    await group.join()
    assert len(group) == 0
    assert 'turntable_background_failures_total{task="canary"} 1.0' in generate_latest(registry).decode()
    assert "KeyError: 'bounds'" in caplog.text


async def test_a_group_that_is_cancelled_ends_what_runs_and_reports_nothing(caplog: pytest.LogCaptureFixture) -> None:
    group = Background().group("shadow")
    task = group.start(asyncio.sleep(3600))
    await group.cancel()
    assert task.cancelled()
    assert "failed" not in caplog.text


def test_a_gateway_that_can_no_longer_read_keys_says_so_and_is_ready_again_once_it_can(tmp_path: Path) -> None:
    def damage(scopes: str) -> None:
        with closing(sqlite3.connect(tmp_path / "turntable.db")) as database:
            database.execute("UPDATE api_keys SET scopes = ?, revision = revision + 1", (scopes,))
            database.execute("UPDATE keys_revision SET revision = revision + 1")
            database.commit()

    with (
        serving(MockSettings(tokens=2)) as engine,
        running_gateway(Settings(data_dir=tmp_path), engine.url) as url,
        httpx.Client(base_url=url) as http,
    ):
        wait_until_ready(url)
        gateway = Attached(url, engine, tmp_path)
        assert gateway.http.post("/admin/v1/keys", json={"name": "k"}).is_success
        damage('["all"]')
        assert eventually(lambda: http.get("/ready").status_code == httpx.codes.SERVICE_UNAVAILABLE)
        error = http.get("/ready").json()["error"]
        assert (error["code"], "'keys'" in error["message"]) == ("background_work_failed", True)
        assert gateway.chat().is_success  # only /ready fails; requests are still served
        damage('["inference"]')
        assert eventually(lambda: http.get("/ready").is_success)
        gateway.http.close()


async def test_closing_gives_up_what_hangs_and_names_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.background.JOIN_S", 0.05)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()

    background = Background()
    background.start([Periodic("costs", 0, stubborn)])
    (task,) = background._loops
    await begun.wait()
    await background.close()
    assert "background task 'costs' did not end within 0.05 s and was given up" in caplog.text
    may_end.set()
    await asyncio.sleep(0.01)  # from now on it waits for its next call, where it can be cancelled
    task.cancel()
    await asyncio.wait([task])
