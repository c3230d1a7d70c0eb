"""What changes while a request waits holds for it: it is sent as if it had come after the wait."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.inference.small_gateway import ACCOUNT, CHAT, NOTHING, SmallGateway, held, is_idle, small_gateway
from tests.waiting import eventually_async

Change = Callable[[], Awaitable[httpx.Response]]
BROKE = {"budgets": [{"usd": "0", "period": "month"}]}


async def after_waiting(here: SmallGateway, change: Change) -> httpx.Response:
    """The answer to a request that waited for a slot while something was changed."""
    admission = here.pipeline.admission
    await admission.acquire()
    asked = asyncio.create_task(here.ask())
    assert await eventually_async(lambda: admission.waiting == 1)
    assert (await change()).is_success
    admission.release()
    return await asked


async def after_loading(here: SmallGateway, change: Change) -> httpx.Response:
    """The answer to a request that waited for a cold adapter while something was changed."""
    loader = here.engine.loader
    await here.cool()
    async with loader._one_at_a_time:
        asked = asyncio.create_task(here.ask())
        assert await eventually_async(lambda: bool(loader._load_waiters))
        assert (await change()).is_success
    return await asked


Wait = Callable[[SmallGateway, Change], Awaitable[httpx.Response]]
waits = pytest.mark.parametrize("wait", [after_waiting, after_loading])


TAKEN_AWAY: list[tuple[str, str, dict[str, Any] | None, int, str]] = [
    ("DELETE", "/admin/v1/keys/{key}", None, 401, "invalid_api_key"),
    ("PATCH", "/admin/v1/keys/{key}", {"expires_at": "2020-01-01T00:00:00Z"}, 401, "invalid_api_key"),
    ("PATCH", "/admin/v1/keys/{key}", {"scopes": ["usage"]}, 403, "missing_scope"),
    ("PATCH", "/admin/v1/keys/{key}", {"adapters": ["other"]}, 404, "model_not_found"),
    ("PATCH", "/admin/v1/keys/{key}", BROKE, 429, "insufficient_quota"),
    ("PATCH", "/admin/v1/keys/{key}", {"budget_usd": "0.000000001"}, 429, "insufficient_quota"),
    ("PUT", "/admin/v1/tenants/default", BROKE, 429, "insufficient_quota"),
]


@pytest.mark.asyncio(loop_scope="function")
@waits
async def test_what_is_taken_away_from_a_key_while_its_request_waits_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    async with small_gateway(tmp_path, monkeypatch) as here:
        sent = len(here.mock.received)
        for method, path, body, status, code in TAKEN_AWAY:
            key = (await here.http.post("/admin/v1/keys", json={"name": "waits"} | ACCOUNT)).json()
            here.headers = {"authorization": f"Bearer {key['key']}"}
            change = partial(here.http.request, method, path.format(key=key["id"]), json=body)
            refused = await wait(here, change)
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code), body
            assert len(here.mock.received) == sent
            assert held(here.pipeline) == NOTHING
        rows = (await here.http.get("/admin/v1/usage")).json()["data"]
        assert (sum(row["unsettled"] for row in rows), sum(row["completion_tokens"] for row in rows)) == (0, 4 * sent)
        assert 'turntable_limit_refusals_total{reason="budget"} 3.0' in (await here.http.get("/metrics")).text


@pytest.mark.asyncio(loop_scope="function")
@waits
async def test_a_key_that_is_changed_for_the_better_while_its_request_waits_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    async with small_gateway(tmp_path, monkeypatch) as here:
        (key,) = (await here.http.get("/admin/v1/keys")).json()["data"]
        body = {"budget_usd": "2000"}
        answered = await wait(here, lambda: here.http.patch(f"/admin/v1/keys/{key['id']}", json=body))
        assert answered.status_code == httpx.codes.OK
        assert await is_idle(here.pipeline, NOTHING)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_key_that_expires_while_its_adapter_is_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with small_gateway(tmp_path, monkeypatch) as here:
        (key,) = (await here.http.get("/admin/v1/keys")).json()["data"]
        soon = datetime.now(UTC) + timedelta(seconds=3)

        async def outlive() -> httpx.Response:
            assert await eventually_async(lambda: datetime.now(UTC) > soon)
            return await here.http.get("/health")

        assert (await here.http.patch(f"/admin/v1/keys/{key['id']}", json={"expires_at": soon.isoformat()})).is_success
        refused = await after_loading(here, outlive)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.asyncio(loop_scope="function")
@waits
async def test_the_twin_of_a_request_that_killed_an_engine_is_not_sent_after_its_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    async with small_gateway(tmp_path, monkeypatch) as here:
        sent = len(here.mock.received)

        async def kill() -> httpx.Response:
            (fingerprint,) = fingerprints
            here.pipeline.poison.began("another", fingerprint)
            here.pipeline.poison.engine_died("another")
            return await here.http.get("/health")

        fingerprints, check = set[int](), here.pipeline.poison.check

        def observe(fingerprint: int) -> None:
            fingerprints.add(fingerprint)
            check(fingerprint)

        monkeypatch.setattr(here.pipeline.poison, "check", observe)
        refused = await wait(here, kill)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "suspect_request")
        assert len(here.mock.received) == sent


@pytest.mark.asyncio(loop_scope="function")
async def test_a_key_that_is_revoked_while_its_body_arrives_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with small_gateway(tmp_path, monkeypatch) as here:
        (key,) = (await here.http.get("/admin/v1/keys")).json()["data"]

        async def slow() -> AsyncIterator[bytes]:
            yield b'{"model":"base",'
            assert (await here.http.delete(f"/admin/v1/keys/{key['id']}")).is_success
            yield b'"messages":[{"role":"user","content":"hi"}]}'

        refused = await here.http.post(CHAT, content=slow(), headers=here.headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.asyncio(loop_scope="function")
async def test_a_request_that_waits_goes_to_the_version_that_is_live_when_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with small_gateway(tmp_path, monkeypatch, versions=2) as here:
        live = (await here.ask()).headers["x-turntable-adapter"]
        body = {"version": "v2"}
        answer = await after_waiting(here, lambda: here.http.post("/admin/v1/adapters/mine/promote", json=body))
        assert answer.status_code == httpx.codes.OK
        assert answer.headers.get_list("x-turntable-adapter") == [(await here.ask()).headers["x-turntable-adapter"]]
        assert answer.headers["x-turntable-adapter"] != live
