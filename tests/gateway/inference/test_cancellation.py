"""A request that is cancelled at any moment gives back all that it held, once, and its slot goes to the next one."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

import gateway.wiring
from adapters import Registry, Store
from gateway.database import open_database
from gateway.inference.pipeline import InferencePipeline
from gateway.settings import Settings
from loadtest.mock_engine import serving
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import in_process_gateway
from tests.gateway.inference.small_gateway import ACCOUNT, CHAT, held, is_idle
from tests.gateway.releases.conftest import ready_versions


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_request_holds_nothing_and_loses_no_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    built: list[InferencePipeline] = []

    def build(**parts: Any) -> InferencePipeline:
        built.append(InferencePipeline(**parts))
        return built[0]

    monkeypatch.setattr(gateway.wiring, "InferencePipeline", build)
    settings = Settings(data_dir=tmp_path, max_in_flight=1, engine_usd_per_hour=1)
    database = open_database(settings.database)
    ready_versions(Registry(database), Store(settings.adapters_dir), "mine", tmp_path, 1)
    database.dispose()
    with serving(MockSettings(tokens=6, itl_ms=2, coalesce=False, tells_tokens=True)) as engine:
        async with in_process_gateway(settings, engine.url) as http:
            made = await http.post("/admin/v1/keys", json={"name": "limited"} | ACCOUNT)
            headers = {"authorization": f"Bearer {made.json()['key']}"}
            body = {"model": "mine", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6, "stream": stream}

            async def ask() -> httpx.Response:
                return await http.post(CHAT, json=body, headers=headers)

            while (await ask()).status_code != httpx.codes.OK:  # until work has a price
                await asyncio.to_thread(lambda: None)
            (pipeline,) = built
            nothing = {"slots": (0, 0), "engine": (0, {}, 0, "closed"), "limits": 0, "money": 0}
            assert await is_idle(pipeline, nothing)
            cut = 0
            for ticks in (*range(0, 40, 2), *range(40, 400, 30), *range(400, 4_000, 400)):
                leaving, staying = asyncio.create_task(ask()), asyncio.create_task(ask())
                for _ in range(ticks):
                    await asyncio.sleep(0)
                cut += leaving.cancel()
                await asyncio.wait([leaving])
                assert (await staying).status_code == httpx.codes.OK, ticks
                assert await is_idle(pipeline, nothing), (ticks, held(pipeline))
            assert cut > 20
            rows = (await http.get("/admin/v1/usage")).json()["data"]
            assert sum(row["unsettled"] for row in rows) == 0
