"""What changes while a request waits holds for it: it is sent as if it had come after the wait."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.gateway.inference.small_gateway import CHAT, SmallGateway, small_gateway
from tests.waiting import eventually_async


async def after_waiting(here: SmallGateway, change: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """The answer to a request that waited for a slot while something was changed."""
    admission = here.pipeline.admission
    await admission.acquire()
    asked = asyncio.create_task(here.ask())
    assert await eventually_async(lambda: admission.waiting == 1)
    assert (await change()).is_success
    admission.release()
    return await asked


@pytest.mark.asyncio(loop_scope="function")
async def test_a_key_that_is_revoked_while_its_request_waits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with small_gateway(tmp_path, monkeypatch) as here:
        (key,) = (await here.http.get("/admin/v1/keys")).json()["data"]
        refused = await after_waiting(here, lambda: here.http.delete(f"/admin/v1/keys/{key['id']}"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        await here.assert_all_rows_are_settled()


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
