"""vLLM's own adapter calls on the gateway: its status codes, its words, our registry behind them."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.adapters.conftest import ALL_LINEAR, Adapter, in_layers, lora
from tests.gateway.conftest import Attached, running_gateway, wait_until_ready

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    """One gateway for the whole file: what is loaded is unloaded again."""
    tmp_path = tmp_path_factory.mktemp("vllm")
    (tmp_path / "data").mkdir()
    settings = Settings(data_dir=tmp_path / "data", adapter_sources=(str(tmp_path / "allowed"),))
    with serving(MockSettings(tokens=2)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        attached = Attached(url, engine, tmp_path / "data")
        yield attached
        attached.http.close()


@pytest.fixture
def path(gateway: Attached) -> str:
    adapter = Adapter(tensors=lora(in_layers(ALL_LINEAR)))
    return str(adapter.write(gateway.data_dir.parent / "allowed" / "mine"))


def test_an_adapter_is_loaded_used_and_unloaded_as_with_vllm(gateway: Attached, path: str) -> None:
    body = {"lora_name": "mine", "lora_path": path}
    loaded = gateway.http.post(LOAD, json=body)
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'mine' added successfully.")
    assert gateway.chat(model="mine").json()["model"] == "mine"
    twice = gateway.http.post(LOAD, json=body)
    assert twice.status_code == 400
    assert twice.json()["error"]["message"].startswith("The lora adapter 'mine' has already been loaded.")
    unloaded = gateway.http.post(UNLOAD, json={"lora_name": "mine", "lora_int_id": 7})
    assert (unloaded.status_code, unloaded.text) == (200, "Success: LoRA adapter 'mine' removed successfully.")
    assert gateway.engine.adapters == {}
    assert gateway.chat(model="mine").status_code == 404
    assert gateway.http.post(LOAD, json=body).status_code == 200
    assert gateway.chat(model="mine").status_code == 200
    assert gateway.http.post(UNLOAD, json={"lora_name": "mine"}).status_code == 200
    actions = [entry["action"] for entry in gateway.http.get("/admin/v1/audit?subject=mine").json()["data"]]
    assert actions.count("promote") == 2
    assert {"add", "ready", "withdraw", "retired"} <= set(actions)


@pytest.mark.parametrize(
    ("where", "body", "status", "words"),
    [
        (LOAD, {"lora_name": "", "lora_path": "/x"}, 400, "Both 'lora_name' and 'lora_path' must be provided."),
        (LOAD, {"lora_name": "base", "lora_path": "/x"}, 400, "conflicts with a served base model"),
        (LOAD, {"lora_name": "mine", "lora_path": "/etc"}, 400, "not among the sources that the operator allows"),
        (LOAD, {"lora_name": "mine", "lora_path": "/x", "load_inplace": True}, 400, "publish a new version"),
        (LOAD, {"lora_name": "Mine!", "lora_path": "/x"}, 400, "not an adapter name"),
        (LOAD, {"lora_name": "mine"}, 400, "lora_path: Field required"),
        (UNLOAD, {"lora_name": ""}, 400, "'lora_name' needs to be provided to unload a LoRA adapter."),
        (UNLOAD, {"lora_name": "nobody"}, 404, "The lora adapter 'nobody' cannot be found."),
    ],
)
def test_refusals_have_vllms_status_and_words(
    gateway: Attached, where: str, body: dict[str, Any], status: int, words: str
) -> None:
    refused = gateway.http.post(where, json=body)
    error = refused.json()["error"]
    assert refused.status_code == status
    assert error.keys() == {"message", "type", "param", "code"}
    assert words in error["message"]


@pytest.mark.parametrize("where", [LOAD, UNLOAD])
def test_only_an_administrator_may(gateway: Attached, where: str) -> None:
    assert httpx.post(f"{gateway.url}{where}", json={"lora_name": "x", "lora_path": "/x"}).status_code == 401
