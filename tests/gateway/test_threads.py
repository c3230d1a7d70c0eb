"""Pools of threads: what fills one of them does not keep another one waiting."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine as Database

from gateway import wiring
from gateway.database import open_database
from gateway.quota import budget_leases, budgets, lease_renewal
from gateway.threads import FILES, REPORTS, WorkerPool
from loadtest.mock_engine import serving
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.quota.conftest import new_key, priced_gateway
from tests.waiting import eventually


async def test_work_that_has_begun_is_waited_for_and_work_that_waits_is_dropped_when_its_callers_leave() -> None:
    pool, begun, may_end, ended = WorkerPool("test", 1), threading.Event(), threading.Event(), list[str]()

    def work(name: str) -> None:
        begun.set()
        may_end.wait(10)
        ended.append(name)

    first, second = (asyncio.create_task(pool.run(work, name)) for name in ("first", "second"))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(begun.wait, 10)
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert ended == []
    asyncio.get_running_loop().call_later(0.05, may_end.set)
    await pool.join()
    assert ended == ["first"]


async def test_work_that_hangs_is_named_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    pool, may_end = WorkerPool("test", 1), threading.Event()

    def hang() -> None:
        may_end.wait(60)

    work = [pool.start(hang), pool.start(hang)]
    await pool.join(0.05)
    assert "threads 'test': gave up waiting for" in caplog.text
    assert caplog.text.count(hang.__qualname__) == 2
    assert pool.unfinished == [hang.__qualname__] * 2
    may_end.set()
    await pool.join()
    await asyncio.gather(*work)
    assert pool.unfinished == []


async def test_results_errors_and_items_come_back() -> None:
    pool = WorkerPool("test", 2)
    assert await pool.run(int, "11", base=2) == 3
    with pytest.raises(ValueError, match="invalid literal"):
        await pool.run(int, "x")
    assert [item async for item in pool.iterate(iter([1, None, 3]))] == [1, None, 3]
    await pool.join()


@contextmanager
def filled(pools: tuple[WorkerPool, ...], database: Database) -> Iterator[None]:
    """All threads of these pools block, each with a connection to the database and as much work waiting behind it."""
    over, begun = threading.Event(), threading.Semaphore(0)

    def block() -> None:
        with database.connect():
            begun.release()
            over.wait(60)

    async def fill() -> None:
        await asyncio.gather(*(pool.start(block) for pool in pools for _ in range(2 * pool.threads)))

    filler = threading.Thread(target=asyncio.run, args=(fill(),))
    filler.start()
    try:
        for _ in range(sum(pool.threads for pool in pools)):
            assert begun.acquire(timeout=10)
        yield
    finally:
        over.set()
        filler.join()


def test_with_files_and_reports_stuck_keys_are_revoked_and_budgets_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Database] = []
    for module in (budget_leases, budgets, lease_renewal):
        monkeypatch.setattr(module, "LEASE_US", 10 * 10**6)  # renewed while less than half of it is left

    def open_and_keep(url: str) -> Database:
        opened.append(open_database(url))
        return opened[-1]

    monkeypatch.setattr(wiring, "open_database", open_and_keep)
    with serving(MockSettings(tokens=2)) as engine, priced_gateway(tmp_path, engine) as gateway:
        doomed = new_key(gateway)
        chat = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert doomed.post("/v1/chat/completions", chat).is_success
        with filled((FILES, REPORTS), opened[-1]):
            rich = new_key(gateway, budget_usd="5", budget_period="day")
            assert rich.post("/v1/chat/completions", chat).is_success, "its first request needs a lease"
            revoke_behind_the_gateways_back(tmp_path, doomed.id)
            revoked_s = time.monotonic()
            assert eventually(lambda: doomed.post("/v1/chat/completions", chat).status_code == 401)
            assert time.monotonic() - revoked_s < 3, "other gateways' changes are read every second"
            leased_us = lease_end_us(tmp_path, rich.id)
            assert eventually(lambda: lease_end_us(tmp_path, rich.id) > leased_us)
            assert gateway.http.delete(f"/admin/v1/keys/{rich.id}").json()["state"] == "revoked"
            assert rich.post("/v1/chat/completions", chat).status_code == 401
            assert httpx.get(f"{gateway.url}/ready").is_success


def lease_end_us(data_dir: Path, key_id: str) -> int:
    """Until when the gateway holds money of this key's budget."""
    with closing(sqlite3.connect(data_dir / "turntable.db", timeout=10)) as database:
        account = f"key:{key_id}"
        found = database.execute("SELECT max(until_us) FROM budget_leases WHERE account = ?", (account,)).fetchone()
        return int(found[0])


def revoke_behind_the_gateways_back(data_dir: Path, key_id: str) -> None:
    """As another gateway on the same database would."""
    with closing(sqlite3.connect(data_dir / "turntable.db", timeout=10)) as database:
        database.execute("UPDATE keys_revision SET revision = revision + 1")
        newest = "(SELECT revision FROM keys_revision)"
        database.execute(f"UPDATE api_keys SET revoked_us = 1, revision = {newest} WHERE id = ?", (key_id,))
        database.commit()
