"""Desired state and dying engines, over mock engines that can be killed and that have no plugin of ours."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters import BaseModel
from gateway.settings import Settings
from tests.adapters_on_disk import AnotherGateway
from tests.gateway.conftest import running_gateway, wait_until_ready
from tests.gateway.engines.mock_pool import Engines, Pool
from tests.waiting import eventually

BASE = BaseModel(Path("base"), "0" * 64, {"model.layers.0.self_attn.q_proj": (16, 16)})


@contextmanager
def gateway(data_dir: Path, *options: str, max_loras: int = 8) -> Iterator[Pool]:
    with ExitStack() as stack:
        engines = Engines(stack, 1, *options)
        url = stack.enter_context(running_gateway(Settings(data_dir=data_dir, max_loras=max_loras), *engines.urls))
        wait_until_ready(url)
        pool = Pool(url, engines)
        stack.enter_context(pool.http)
        yield pool


def engine(pool: Pool) -> dict[str, Any]:
    return dict(pool.http.get("/admin/v1/engines").json()["data"][0])


def named_in_engine(pool: Pool) -> set[str]:
    return set(pool.engines.stats(0)["adapters"])


def test_an_engine_without_our_plugin_works_and_says_what_is_missing(tmp_path: Path) -> None:
    with gateway(tmp_path) as pool:
        found = engine(pool)
    assert found["plugin"] is False
    assert "an unload frees no memory" in found["degraded"]
    assert found["tiers"] is None
    patches = {patch["name"]: patch for patch in found["patches"]}
    assert patches["cpu-mixed-batch"]["applied"] is False
    assert patches["load-inplace"]["applied"] is True
    assert all(patch["defect"] and patch["measure"] for patch in patches.values())


def test_without_the_plugin_names_are_bounded_all_the_same(tmp_path: Path) -> None:
    with gateway(tmp_path, max_loras=2) as pool:
        other = AnotherGateway(tmp_path, BASE)
        versions = other.publish_many("many", tmp_path / "sources", 9)
        assert eventually(lambda: pool.ask("hi", model="many8").status_code == 200)
        answers = [pool.ask("hi", model=version.name).status_code for version in versions]
        latest = {version.engine_name for version in versions[-4:]}
        assert named_in_engine(pool) == latest == set(engine(pool)["resident"])
    assert set(answers) == {200}


def test_a_restarted_engine_gets_what_was_used_last_before_it_is_ready_and_the_rest_lazily(tmp_path: Path) -> None:
    with gateway(tmp_path, max_loras=3) as pool:
        other = AnotherGateway(tmp_path, BASE)
        versions = other.publish_many("many", tmp_path / "sources", 20)
        assert eventually(lambda: pool.ask("hi", model="many19").status_code == 200)
        used = [versions[number] for number in (4, 17, 9)]
        assert [pool.ask("hi", model=version.name).status_code for version in used] == [200] * 3
        pool.engines.kill(0)
        assert eventually(lambda: pool.states() == ["restarting"])
        pool.engines.restart(0)
        assert eventually(lambda: pool.states() == ["ready"])
        assert named_in_engine(pool) == {version.engine_name for version in used}
        assert pool.ask("hi", model="many0").status_code == 200


def test_a_restarted_gateway_remembers_what_was_used_last(tmp_path: Path) -> None:
    with gateway(tmp_path, max_loras=2) as pool:
        other = AnotherGateway(tmp_path, BASE)
        versions = other.publish_many("many", tmp_path / "sources", 10)
        assert eventually(lambda: pool.ask("hi", model="many9").status_code == 200)
        used = [versions[number] for number in (6, 3)]
        assert [pool.ask("hi", model=version.name).status_code for version in used] == [200] * 2
        memory = tmp_path / "engines" / "engine-0.json"
        assert eventually(lambda: memory.exists() and json.loads(memory.read_text())[-1] == used[1].engine_name)
    with gateway(tmp_path, max_loras=2) as pool:
        assert named_in_engine(pool) == {version.engine_name for version in used}


def test_a_version_under_whose_load_the_engine_died_is_quarantined_and_not_tried_again(tmp_path: Path) -> None:
    with gateway(tmp_path, "--load-ms", "60000") as pool, ThreadPoolExecutor(1) as threads:
        other = AnotherGateway(tmp_path, BASE)
        killer = other.publish("killer", tmp_path / "killer", 1)
        assert eventually(lambda: pool.http.get("/v1/models/killer").status_code == 200)
        asked = threads.submit(pool.ask, "hi", model="killer")
        threading.Event().wait(0.3)
        pool.engines.kill(0)
        assert asked.result().status_code in (502, 503)
        assert eventually(lambda: pool.states() == ["restarting"])
        assert eventually(lambda: bool(other.registry.refresh()))
        (version,) = other.registry.snapshot.versions["killer"]
        assert version.state == "quarantined"
        assert "died while or right after this version was loaded" in version.reason
        pool.engines.restart(0)
        assert eventually(lambda: pool.states() == ["ready"])
        assert pool.ask("hi", model="killer").status_code == 404
        assert killer.engine_name not in named_in_engine(pool)


@pytest.mark.parametrize("state", ["retired", "quarantined"])
def test_what_another_gateway_takes_out_of_service_leaves_the_engine(tmp_path: Path, state: str) -> None:
    with gateway(tmp_path) as pool:
        other = AnotherGateway(tmp_path, BASE)
        old = other.publish("name", tmp_path / "old", 1)
        assert eventually(lambda: pool.ask("hi", model="name").status_code == 200)
        new = other.publish("name", tmp_path / "new", 2)
        if state == "retired":
            other.registry.retire("name", old.version, actor="test")
        else:
            other.registry.set_state(old, type(old.state)("quarantined"), "bad", actor="test")
        assert eventually(lambda: old.engine_name not in named_in_engine(pool))
        assert pool.ask("hi", model="name").headers["x-turntable-adapter"] == new.engine_name
