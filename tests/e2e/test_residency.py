"""Adapters in the real engine: what the gateway believes is what the engine has, and what left has really left.

The engine of the run has two slots and keeps four adapters, so everything here is pushed out all the time.
"""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from adapters import BaseModel, StoreError, Version
from gateway.engines.client import EngineClient
from gateway.engines.effect_probe import Effect, ProbeResult, probe_effect
from gateway.engines.file_locks import AdapterFileLocks
from gateway.engines.plugin.residency import ADAPTERS
from gateway.settings import Settings
from tests.adapters_on_disk import AnotherGateway, write_adapter
from tests.canaries import ENGINE_KEY
from tests.conftest import Served
from tests.e2e.readings import described, engine_processes
from tests.fingerprints import PROMPT, Fingerprint, closest, distance, fingerprint
from tests.gateway.conftest import KEY, running_gateway, wait_until_ready
from tests.waiting import eventually


@pytest.fixture(scope="module")
def other(served: Served, base_model: Path) -> AnotherGateway:
    return AnotherGateway(served.data_dir, BaseModel.read(base_model))


@pytest.fixture(scope="module")
def crowd(other: AnotherGateway, tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """A hundred and twenty adapters that no engine has seen yet."""
    return list(other.publish_many("crowd", tmp_path_factory.mktemp("crowd"), 120))


def in_engine(served: Served) -> dict[str, dict[str, Any]]:
    """What the engine itself says, by name."""
    document = served.ask_engine("GET", ADAPTERS).json()
    return {adapter["name"]: adapter for adapter in document["adapters"]}


def logprobs(served: Served, model: str) -> Fingerprint:
    return fingerprint(served.http, model)


def test_a_hundred_adapters_take_turns_without_an_error_or_a_foreign_answer(
    served: Served, crowd: list[Version]
) -> None:
    names = [version.name for version in crowd]
    assert eventually(lambda: served.http.get(f"/v1/models/{names[-1]}").status_code == 200)
    references = {name: logprobs(served, name) for name in names[:12]}
    weights = 1 / np.arange(1, 61)
    chosen = np.random.default_rng(1).choice(names[:60], 240, p=weights / weights.sum())
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda name: (name, logprobs(served, name)), map(str, chosen)))
    sample = [(name, closest(answer, references)) for name, answer in answers if name in references]
    assert len(sample) > 100
    assert [(name, name) for name, _ in sample] == sample
    assert len(set(names) & {adapter for adapter, _ in answers}) > 40


def test_what_the_gateway_holds_resident_is_what_the_engine_has(served: Served, crowd: list[Version]) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda version: logprobs(served, version.name), crowd[:20]))
    last = [version.engine_name for version in crowd[:2]]
    for version in crowd[:2]:
        logprobs(served, version.name)
    engine, truth = described(served), in_engine(served)
    assert set(engine["resident"]) == set(truth)
    assert engine["resident"][-2:] == last
    assert len(truth) <= engine["capacity"] == 4  # names too: vLLM's own list of names would only grow
    assert [truth[name]["tier"] for name in last] == ["slot", "slot"]
    assert all(adapter["tier"] != "disk" and adapter["load_ms"] > 0 for adapter in truth.values())
    assert eventually(lambda: set(described(served)["tiers"]["slot"]) == set(last))


def test_two_gateways_on_one_engine_push_out_each_others_adapters_and_harm_nobody(
    served: Served, crowd: list[Version]
) -> None:
    names = [version.name for version in crowd[:8]]
    references = {name: logprobs(served, name) for name in names}
    chosen = [str(name) for name in np.random.default_rng(2).choice(names, 120)]
    settings = Settings(data_dir=served.data_dir, engine_api_key=SecretStr(ENGINE_KEY))
    with running_gateway(settings, described(served)["url"]) as url:
        wait_until_ready(url)
        operator = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=url, headers=operator, timeout=60) as second, ThreadPoolExecutor(8) as threads:
            gateways = [served.http, second] * 60
            answers = list(threads.map(lambda http, name: (name, fingerprint(http, name)), gateways, chosen))
    assert [(name, closest(answer, references)) for name, answer in answers] == [(name, name) for name in chosen]


def may_delete(leases: AdapterFileLocks, digest: str) -> bool:
    try:
        with leases.deleting(digest):
            return True
    except StoreError:
        return False


def test_a_slot_takes_the_memory_that_was_planned(served: Served) -> None:
    engine = described(served)
    assert served.ask_engine("GET", ADAPTERS).json()["slot_bytes"] == engine["plan"]["slot_bytes"] > 0


def test_a_version_that_another_gateway_retires_leaves_the_engine_and_its_files_are_free(
    served: Served, other: AnotherGateway, crowd: list[Version], tmp_path: Path
) -> None:
    victim = crowd[3]
    logprobs(served, victim.name)
    leases = AdapterFileLocks(served.data_dir / "adapters")
    with pytest.raises(StoreError, match="another gateway"), leases.deleting(victim.digest):
        pass
    assert victim.engine_name in in_engine(served)
    other.publish(victim.name, tmp_path / "better", 7)
    other.registry.retire(victim.name, victim.version, actor="test")
    assert eventually(lambda: victim.engine_name not in in_engine(served))
    assert eventually(lambda: may_delete(leases, victim.digest))  # the gateway lets go once the engine has answered
    refused = served.http.post("/v1/completions", json={"model": f"{victim.name}@v1", "prompt": PROMPT})
    assert refused.status_code == 404
    assert logprobs(served, victim.name) == logprobs(served, f"{victim.name}@v2")


def test_a_pinned_adapter_keeps_its_slot_until_it_is_unpinned(
    served: Served, other: AnotherGateway, crowd: list[Version]
) -> None:
    pinned = crowd[5]
    other.registry.set_pinned(pinned.name, True, actor="test")
    assert eventually(lambda: in_engine(served).get(pinned.engine_name, {}).get("pinned") is True)
    for version in crowd[6:16]:
        logprobs(served, version.name)
    assert in_engine(served)[pinned.engine_name]["tier"] == "slot"
    other.registry.set_pinned(pinned.name, False, actor="test")
    assert eventually(lambda: in_engine(served)[pinned.engine_name]["pinned"] is False)
    for version in crowd[6:12]:
        logprobs(served, version.name)
    assert pinned.engine_name not in in_engine(served)


def test_someone_who_removes_an_adapter_from_the_engine_by_hand_harms_nobody(
    served: Served, crowd: list[Version]
) -> None:
    name = crowd[7].engine_name
    before = logprobs(served, crowd[7].name)
    served.ask_engine("POST", f"{ADAPTERS}/remove", json={"name": name}).raise_for_status()
    assert eventually(lambda: name not in described(served)["resident"])
    assert distance(logprobs(served, crowd[7].name), before) < 0.05


@pytest.mark.parametrize(
    ("strength", "verdicts"),
    [(0.3, {Effect.EFFECT}), (0.02, {Effect.EFFECT, Effect.UNCLEAR}), (0.0, {Effect.NO_EFFECT, Effect.UNCLEAR})],
)
async def test_the_probe_tells_an_adapter_that_changes_nothing(
    served: Served, tmp_path: Path, other: AnotherGateway, strength: float, verdicts: set[Effect]
) -> None:
    result = await probed(served, other, tmp_path, strength)
    assert result.verdict in verdicts
    assert result.rounds == 1 or result.noise > 0


async def probed(served: Served, other: AnotherGateway, scratch: Path, strength: float) -> ProbeResult:
    """Load an adapter of this strength behind the gateway's back, probe it, and take it out again."""
    client = EngineClient(described(served)["url"], connect_timeout_s=5, idle_timeout_s=60, api_key=ENGINE_KEY)
    directory = write_adapter(other.base, scratch / "probed", 77, strength=strength)
    name = f"probed-{strength}"
    try:
        await client.load_adapter(name, str(directory))
        return await probe_effect(client.complete, "base", name)
    finally:
        await client.remove_adapter(name)
        client.close()


def test_a_killed_engine_has_its_working_set_back_and_the_right_weights(served: Served, crowd: list[Version]) -> None:
    used = [version.name for version in crowd[20:40]]
    before = {name: logprobs(served, name) for name in used}
    engine, victims = described(served), engine_processes(served)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: served.http.get("/ready").status_code == 503)
    refused = served.http.post("/v1/completions", json={"model": used[0], "prompt": PROMPT})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    served.wait_until_ready()
    assert not set(victims) & set(engine_processes(served))
    assert described(served)["restarts"] == engine["restarts"] + 1
    assert (served.data_dir / "logs" / "engine.1.log").stat().st_size, "the log of the one that died is kept"
    latest = engine["resident"][-2:]
    assert set(latest) <= set(in_engine(served)), "what was used last is there before /ready"
    with ThreadPoolExecutor(8) as threads:
        after = dict(zip(used, threads.map(lambda name: logprobs(served, name), used), strict=True))
    assert {name: closest(after[name], before) for name in used} == {name: name for name in used}
    shown = [served.http.get(f"/admin/v1/adapters/{name}").json()["versions"][0] for name in used]
    assert {version["state"] for version in shown} == {"ready"}, "nobody is to blame for a kill from outside"
