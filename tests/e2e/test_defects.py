"""What a bare vLLM does wrong with adapters, each defect beside its absence through the gateway.

When a test of the bare engine fails because the defect is gone, vLLM has mended it: give its patch in
`gateway/engines/plugin/patches.py` a `fixed_in`. One bare engine serves all tests here; the last one kills it.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from adapters import BaseModel
from gateway.engines.process import EngineSpec
from tests.adapters_on_disk import AnotherGateway, write_adapter
from tests.conftest import READY_TIMEOUT_S, Served
from tests.fingerprints import distance, fingerprint
from tests.waiting import eventually

KEY = "bare-key"


class Bare:
    """vLLM as the gateway starts it, without anything of ours in it, and with a key as vLLM's manual advises."""

    def __init__(self, url: str, base: BaseModel, scratch: Path) -> None:
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60)
        self._base = base
        self._scratch = scratch

    def write(self, name: str, seed: int) -> Path:
        return write_adapter(self._base, self._scratch / name, seed)

    def load(self, name: str, path: Path, **options: object) -> httpx.Response:
        return self.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path), **options})

    def is_healthy(self) -> bool:
        try:
            return self.http.get("/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def newest_id(self) -> int:
        """vLLM numbers adapters as it meets their names."""
        return max(map(int, re.findall(r"\d+", self.adapters_in_memory())))

    def adapters_in_memory(self) -> str:
        return str(self.http.post("/collective_rpc", json={"method": "list_loras"}).json()["results"])


@pytest.fixture(scope="module")
def bare(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    scratch = tmp_path_factory.mktemp("bare")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spec = EngineSpec(base_model, "base", port, 2, 3, 16, None, 1, ("--api-key", KEY), scratch / "bare.log")
    environment = {**spec.environment(), "VLLM_PLUGINS": "", "VLLM_SERVER_DEV_MODE": "1"}
    with (
        spec.log_path.open("wb") as log,
        subprocess.Popen(spec.command(), env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        engine = Bare(f"http://127.0.0.1:{port}", BaseModel.read(base_model), scratch)
        try:
            assert eventually(engine.is_healthy, READY_TIMEOUT_S, 0.5)
            yield engine
        finally:
            engine.http.close()
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def other(served: Served, base_model: Path) -> AnotherGateway:
    return AnotherGateway(served.data_dir, BaseModel.read(base_model))


def restarts(served: Served) -> int:
    return int(served.http.get("/admin/v1/engines").json()["data"][0]["restarts"])


def test_bare_base_answers_carry_an_adapter_when_both_are_in_one_batch(bare: Bare) -> None:
    """Shield cpu-mixed-batch; through the gateway: test_serving, answers do not leak between models in one batch."""
    for name, seed in (("one", 1), ("two", 2)):
        assert bare.load(name, bare.write(name, seed)).status_code == 200
    references = {name: fingerprint(bare.http, name) for name in ("base", "one", "two")}
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda name: (name, fingerprint(bare.http, name)), ["base", "one"] * 40))
    drift = [distance(answer, references["base"]) for name, answer in answers if name == "base"]
    assert max(drift) > 0.5, "vLLM has mended its CPU op"


def test_a_bare_unload_only_forgets_the_name(bare: Bare) -> None:
    """Shield unload-only-forgets; through the gateway: test_residency, a retired version leaves the engine."""
    before = bare.adapters_in_memory()
    assert bare.load("left", bare.write("left", 3)).status_code == 200
    loaded = bare.adapters_in_memory()
    assert bare.http.post("/v1/unload_lora_adapter", json={"lora_name": "left"}).status_code == 200
    assert bare.adapters_in_memory() == loaded != before


def test_a_bare_engine_keeps_every_name_for_good(bare: Bare) -> None:
    """Shield unbounded-names; through the gateway: test_residency, names are bounded by the capacity."""
    for number in range(6):
        assert bare.load(f"name{number}", bare.write(f"name{number}", 10 + number)).status_code == 200
    names = [model["id"] for model in bare.http.get("/v1/models").json()["data"]]
    assert len([name for name in names if name.startswith("name")]) == 6, "three fit into this engine's memory"


def test_every_unknown_name_costs_a_bare_engine_an_id_for_good(bare: Bare) -> None:
    """Shield unknown-names."""
    assert bare.load("before", bare.write("before", 60)).status_code == 200
    newest = bare.newest_id()
    for number in range(20):
        asked = bare.http.post("/v1/completions", json={"model": f"nobody{number}", "prompt": "x"})
        assert asked.status_code == 404
    assert bare.load("after", bare.write("after", 61)).status_code == 200
    assert bare.newest_id() == newest + 21, "vLLM no longer keeps something for every name it does not know"


def test_no_unknown_name_reaches_the_engine(served: Served) -> None:

    def refusals() -> list[str]:
        exposed = served.ask_engine("GET", "/metrics").text.splitlines()
        return [line for line in exposed if line.startswith("http_requests_total") and 'status="4xx"' in line]

    before = refusals()
    for number in range(20):
        assert served.http.post("/v1/completions", json={"model": f"no{number}", "prompt": "x"}).status_code == 404
    assert refusals() == before


def test_bare_weights_that_were_loaded_in_place_change_under_running_requests(bare: Bare) -> None:
    """Shield load-inplace."""
    path, changed = bare.write("inplace", 20), bare.write("changed", 21)
    assert bare.load("inplace", path, load_inplace=True).status_code == 200
    before = fingerprint(bare.http, "inplace")
    shutil.copyfile(changed / "adapter_model.safetensors", path / "adapter_model.safetensors")
    after = fingerprint(bare.http, "inplace")  # nobody loaded anything
    assert bare.load("changed", changed).status_code == 200
    assert distance(before, fingerprint(bare.http, "changed")) > 0.5
    assert distance(after, fingerprint(bare.http, "changed")) < 0.05, "vLLM reads an adapter no more than once"


def test_files_changed_behind_the_gateways_back_never_answer(
    served: Served, other: AnotherGateway, tmp_path: Path
) -> None:
    version = other.publish("tampered", tmp_path / "tampered", 30)
    assert eventually(lambda: served.http.get("/v1/models/tampered").status_code == 200)
    before = fingerprint(served.http, "tampered")
    foreign = write_adapter(other.base, tmp_path / "foreign", 31)
    stored = served.data_dir / "adapters" / version.digest / "adapter_model.safetensors"
    shutil.copyfile(foreign / "adapter_model.safetensors", stored)
    assert distance(fingerprint(served.http, "tampered"), before) < 0.05
    for number in range(5):  # push it out
        other.publish(f"pusher{number}", tmp_path / f"pusher{number}", 32 + number)
    assert eventually(lambda: served.http.get("/v1/models/pusher4").status_code == 200)
    for number in range(5):
        fingerprint(served.http, f"pusher{number}")
    refused = served.http.post("/v1/completions", json={"model": "tampered", "prompt": "x", "max_tokens": 1})
    assert refused.status_code == 422
    assert "changed on disk" in refused.json()["error"]["message"]


def test_a_bare_engine_serves_paths_without_its_key(bare: Bare) -> None:
    """Shields open-paths and unlisted-paths."""
    nobody = httpx.Client(base_url=bare.http.base_url)
    with nobody:
        loaded = nobody.post("/adapters", json={"name": "smuggled", "src": str(bare.write("smuggled", 22))})
        assert loaded.status_code == 200, "vLLM guards its adapter endpoints now"
        assert nobody.post("/tokenize", json={"model": "base", "prompt": "x"}).status_code == 200


@pytest.mark.parametrize("path", ["/adapters", "/invocations", "/collective_rpc", "/v1/turntable/adapters/remove"])
def test_the_gateway_relays_none_of_them(served: Served, path: str) -> None:
    assert served.http.post(path, json={"name": "x", "src": "/tmp"}).status_code == 404


def test_an_adapter_without_its_files_is_refused_and_the_engine_lives(
    served: Served, other: AnotherGateway, tmp_path: Path
) -> None:
    """Shield missing-file."""
    lost = other.publish("lost", tmp_path / "lost", 40)
    assert eventually(lambda: served.http.get("/v1/models/lost").status_code == 200)
    before = restarts(served)
    (served.data_dir / "adapters" / lost.digest / "adapter_model.safetensors").unlink()
    refused = served.http.post("/v1/completions", json={"model": "lost", "prompt": "x", "max_tokens": 1})
    assert refused.status_code == 422
    assert (
        served.http.post("/v1/completions", json={"model": "base", "prompt": "x", "max_tokens": 1}).status_code == 200
    )
    assert restarts(served) == before


def test_a_bare_engine_dies_of_a_file_that_is_gone(bare: Bare) -> None:
    path = bare.write("doomed", 23)
    assert bare.load("doomed", path).status_code == 200
    for number in range(4):
        assert bare.load(f"push{number}", bare.write(f"push{number}", 50 + number)).status_code == 200
    shutil.rmtree(path)
    body = {"model": "doomed", "prompt": "x", "max_tokens": 1}
    assert bare.http.post("/v1/completions", json=body).status_code >= 500
    assert eventually(lambda: not bare.is_healthy()), "vLLM survives a missing file now"
