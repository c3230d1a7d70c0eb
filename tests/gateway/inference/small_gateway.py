"""A whole gateway in this event loop, with each step of a request by name and what requests hold at a moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import gateway.wiring
from adapters import Registry, Store, Version
from gateway.database import open_database
from gateway.engines.engine import PinnedEngine
from gateway.engines.http import EngineConnection
from gateway.inference.endpoint import HttpClient
from gateway.inference.formats import APIS
from gateway.inference.pipeline import InferencePipeline
from gateway.metering import LedgerEntry
from gateway.quota import RateLimitGrant, Reservation
from gateway.quota.manager import QuotaGrant
from gateway.settings import Settings
from loadtest.mock_engine import serving
from loadtest.mock_engine.engine import MockEngine, MockSettings
from tests.gateway.conftest import in_process_gateway
from tests.gateway.releases.conftest import ready_versions
from tests.waiting import eventually_async

CHAT = "/v1/chat/completions"
ACCOUNT = {"rpm": 10**6, "tpm": 10**9, "max_concurrency": 100, "budget_usd": "1000", "budget_period": "month"}


def held(pipeline: InferencePipeline) -> dict[str, Any]:
    """What requests hold of each service at this moment."""
    (engine,) = pipeline.pool.engines
    return {
        "slots": (pipeline.admission.running, pipeline.admission.waiting),
        "engine": (engine.running, dict(engine.loader.pins), engine.scheduler.waiting, engine.breaker.state.value),
        "limits": sum(meter.running for meter in pipeline.quota.limiter.meters.values()),
        "money": sum(lease.reserved for lease in pipeline.quota.budgets.in_use()),
    }


async def is_idle(pipeline: InferencePipeline, nothing: dict[str, Any]) -> bool:
    """Whether nothing is held any more within five seconds: a cut off request is settled after asking the engine."""
    for _ in range(500):
        if held(pipeline) == nothing:
            return True
        await asyncio.to_thread(lambda: None)
        await asyncio.sleep(0.01)
    return False


NOTHING = {"slots": (0, 0), "engine": (0, {}, 0, "closed"), "limits": 0, "money": 0}
Place = tuple[Any, str]
"""An object or a class, and the method at which something happens."""


class SmallGateway:
    """A gateway in this event loop with one adapter, one key with limits and a budget, and one mock engine."""

    def __init__(
        self, http: httpx.AsyncClient, pipeline: InferencePipeline, mock: MockEngine, key: str, version: Version
    ) -> None:
        self.http, self.pipeline, self.mock, self.version = http, pipeline, mock, version
        self.headers = {"authorization": f"Bearer {key}"}
        (self.engine,) = pipeline.pool.engines

    async def ask(self, **fields: object) -> httpx.Response:
        body = {"model": "mine", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        return await self.http.post(CHAT, json=body | fields, headers=self.headers)

    def steps(self) -> list[Place]:
        """Every step of `serve` that calls on a service, in their order."""
        line, quota, engine = self.pipeline, self.pipeline.quota, self.engine
        return [
            (line.keyring, "authenticate"),
            (quota, "refuse_early"),
            (line.bodies, "read"),
            (APIS[CHAT], "parse"),
            (line.resolver, "route_for"),
            (HttpClient, "watch"),
            (line.poison, "check"),
            (line.pool, "require_ready"),
            (quota, "_context_tokens"),
            (quota.limiter, "take"),
            (quota.budgets, "reserve"),
            (quota.budgets._renewer, "fetch"),
            (line.admission, "acquire"),
            (line.salts, "salt"),
            (line.settlement, "open"),
            (line.settlement._ledger, "open"),
            (line.pool, "choose"),
            (engine.scheduler, "enter"),
            (engine.loader, "pin"),
            (engine.loader, "ensure"),
            (line.settlement, "begin_attempt"),
            (engine.breaker, "begin"),
            (engine.poison, "began"),
            (engine.client, "send"),
            (EngineConnection, "send"),
            (line.settlement, "observe_overhead"),
            (EngineConnection, "read"),
            (EngineConnection, "next_chunk"),
            (EngineConnection, "pump"),
            (APIS[CHAT], "whole"),
            (APIS[CHAT], "stream"),
            (LedgerEntry, "mark_first_byte"),
            (HttpClient, "send_events"),
            (HttpClient, "drained"),
            (HttpClient, "send_end"),
            (HttpClient, "send_whole"),
        ]

    def undoing(self) -> list[Place]:
        """Every step that gives something back, or notes how a request ended."""
        line, engine = self.pipeline, self.engine
        return [
            (PinnedEngine, "unpin"),
            (engine.client, "release"),
            (engine.poison, "ended"),
            (engine.breaker, "abandoned"),
            (engine.loader, "unpin"),
            (engine.scheduler, "leave"),
            (engine, "learn_pace"),
            (line.settlement, "finish"),
            (line.settlement, "_engine"),
            (line.settlement, "_count"),
            (line.settlement, "settle"),
            (line.settlement._ledger, "note"),
            (line.settlement._ledger, "settle"),
            (RateLimitGrant, "end"),
            (Reservation, "settle"),
            (QuotaGrant, "settle"),
            (QuotaGrant, "cancel"),
            (line.admission, "release"),
            (HttpClient, "unwatch"),
        ]

    async def cool(self) -> None:
        """Take the adapter out of the engine and the money out of the lease, so that each step has to be taken."""
        await self.pipeline.pool.unload(self.version, deadline_s=5)
        for lease in self.pipeline.quota.budgets.in_use():
            lease.until_s = 0.0

    async def assert_all_is_given_back(self, step: object) -> None:
        """Assert that nothing is held, in the engine neither, and that the next request is answered."""
        assert await is_idle(self.pipeline, NOTHING), (step, held(self.pipeline))
        assert await eventually_async(lambda: self.mock.running == 0), step
        assert (await self.ask()).status_code == httpx.codes.OK, step
        assert await is_idle(self.pipeline, NOTHING), (step, held(self.pipeline))
        await self.cool()
        is_resident = bool(self.engine.loader.resident)  # the reconciler may have loaded it again
        assert bool(self.pipeline.pool.file_locks.holders(self.version.digest)) == is_resident, step

    async def assert_all_rows_are_settled(self) -> None:
        rows = (await self.http.get("/admin/v1/usage")).json()["data"]
        assert (len(rows), sum(row["unsettled"] for row in rows)) == (1, 0)


@asynccontextmanager
async def small_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, versions: int = 1, **settings: Any
) -> AsyncIterator[SmallGateway]:
    built: list[InferencePipeline] = []

    def build(**parts: Any) -> InferencePipeline:
        built.append(InferencePipeline(**parts))
        return built[0]

    monkeypatch.setattr(gateway.wiring, "InferencePipeline", build)
    stated = Settings(data_dir=tmp_path, max_in_flight=1, engine_usd_per_hour=1, **settings)
    database = open_database(stated.database)
    registry = Registry(database)
    ready_versions(registry, Store(stated.adapters_dir), "mine", tmp_path, versions)
    version = registry.snapshot.versions["mine"][0]
    database.dispose()
    with serving(MockSettings(tokens=4, itl_ms=10, coalesce=False, tells_tokens=True)) as engine:
        async with in_process_gateway(stated, engine.url) as http:
            made = await http.post("/admin/v1/keys", json={"name": "limited", "max_tokens": 100} | ACCOUNT)
            running = SmallGateway(http, built[0], engine.engine, made.json()["key"], version)
            while (await running.ask()).status_code != httpx.codes.OK:  # until work has a price
                await asyncio.to_thread(lambda: None)
            yield running
