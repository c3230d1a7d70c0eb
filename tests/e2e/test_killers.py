"""Requests that kill a bare vLLM: through the gateway they harm nobody, and an engine that one did kill comes back."""

import httpx
import pytest

from tests.conftest import Served
from tests.gateway.killers import KILLERS, Killer, completion
from tests.waiting import eventually

HARMLESS = completion(max_tokens=4)


@pytest.mark.parametrize("killer", KILLERS, ids=[killer.name for killer in KILLERS])
def test_no_killer_reaches_the_engine(served: Served, killer: Killer) -> None:
    body = dict(killer.body) | {"model": "base"}
    answer = served.http.post(killer.path, json=body)
    assert answer.status_code in (200, 400), answer.text
    assert served.http.post("/v1/completions", json=HARMLESS).status_code == 200


def test_prompt_log_probabilities_kill_no_engine_with_grouped_lora(served: Served) -> None:
    """vLLM's own LoRA operations fail on their logits; ours have nothing to add where no adapter touches the head."""
    (before,) = served.http.get("/admin/v1/engines").json()["data"]
    killer = next(killer for killer in KILLERS if killer.name == "prompt_logprobs with n")
    answer = served.ask_engine("POST", killer.path, json=dict(killer.body), timeout=60)
    assert answer.status_code == 200
    assert len(answer.json()["choices"]) == 4
    (after,) = served.http.get("/admin/v1/engines").json()["data"]
    assert after["restarts"] == before["restarts"]


def test_the_bare_engine_dies_of_one_and_comes_back(served: Served) -> None:
    """When this fails because the engine lives on, vLLM has mended the defect and the patch may go."""
    (engine,) = served.http.get("/admin/v1/engines").json()["data"]
    killer = next(killer for killer in KILLERS if killer.name == "deep kv_transfer_params")
    with pytest.raises(httpx.HTTPError):
        served.ask_engine("POST", killer.path, json=dict(killer.body), timeout=30).raise_for_status()
    assert eventually(lambda: served.http.get("/ready").status_code == 503)
    served.wait_until_ready()
    (again,) = served.http.get("/admin/v1/engines").json()["data"]
    assert again["restarts"] == engine["restarts"] + 1
    assert served.http.post("/v1/completions", json=HARMLESS).status_code == 200
