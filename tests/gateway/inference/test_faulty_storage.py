"""A full disk, or a database that is taken away, at each step of a request: nothing is lost, nothing billed twice."""

import asyncio
import re
import resource
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.money import usd_exact
from tests.gateway.inference.small_gateway import NOTHING, SmallGateway, held, is_idle, small_gateway
from tests.gateway.inference.step_hooks import REQUEST, replaced

Storage = Callable[[Path], Callable[[], object]]
"""Breaks the storage of a data directory; returns what repairs it."""


def full_disk(_data_dir: Path) -> Callable[[], object]:
    """Have every write that makes a file of this process longer fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


def database_away(data_dir: Path) -> Callable[[], object]:
    """Take the database's file away."""
    there, elsewhere = data_dir / "turntable.db", data_dir / "elsewhere.db"
    there.rename(elsewhere)
    return lambda: elsewhere.rename(there)


def assert_told_in_one_sentence(answer: httpx.Response, step: object) -> None:
    if answer.is_success:
        assert "error" not in answer.json(), step
        return
    message = answer.json()["error"]["message"]
    assert answer.status_code in (503, 507), (step, answer.text)
    assert re.fullmatch(r"[^.\n]+\.", message), (step, message)
    assert not re.search(r"turntable\.db|Errno|Error", message), (step, message)


async def settled_usage(here: SmallGateway) -> dict[str, Any]:
    """The ledger's sums, once what failed to be written has been written again."""
    for _ in range(600):
        (usage,) = (await here.http.get("/admin/v1/usage")).json()["data"]
        if usage["unsettled"] == 0:
            break
        await asyncio.sleep(0.1)
    assert usage["unsettled"] == 0
    return dict(usage)


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("breaks", [full_disk, database_away])
async def test_storage_that_fails_at_any_step_loses_nothing_and_bills_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: Storage
) -> None:
    async with small_gateway(tmp_path, monkeypatch) as here:
        statuses = list[int]()
        for step in here.steps() + here.undoing():
            await here.cool()
            repairs = list[Callable[[], object]]()
            with monkeypatch.context() as patches:
                replaced(step, patches, lambda: repairs.append(breaks(tmp_path)), first=True)  # noqa: B023
                try:
                    answer = await asyncio.create_task(here.ask(), name=REQUEST)
                finally:
                    for repair in repairs:
                        repair()
            assert_told_in_one_sentence(answer, step)
            statuses.append(answer.status_code)
            assert await is_idle(here.pipeline, NOTHING), (step, held(here.pipeline))
            assert (await here.ask()).status_code == httpx.codes.OK, step
        assert set(statuses) - {200}, "it was refused at some of them"
        usage = await settled_usage(here)
        assert usage["completion_tokens"] == here.mock.generation_tokens
        assert usage["prompt_tokens"] == here.mock.prompt_tokens
        (key,) = (await here.http.get("/admin/v1/keys")).json()["data"]
        (spending,) = (await here.http.get(f"/admin/v1/keys/{key['id']}")).json()["spending"]
        with closing(sqlite3.connect(tmp_path / "turntable.db")) as database:
            query = "SELECT sum(cost_nano_usd), count(*), count(DISTINCT request_id) FROM usage_ledger WHERE key_id = ?"
            cost, rows, requests = database.execute(query, (key["id"],)).fetchone()
        assert rows == requests == usage["requests"]
        assert spending["spent_usd"] == usd_exact(cost)
