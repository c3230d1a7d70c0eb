"""The gateway over a real engine, through clients that we did not write."""

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from safetensors.numpy import load_file, save_file

from tests.conftest import Served
from tests.e2e.answers import ask, nearest
from tests.e2e.inference_requests import ASK
from tests.e2e.readings import booked_and_counted, engine_metric, usage_of
from tests.waiting import eventually


def answer(openai: OpenAI, model: str, **options: Any) -> str:
    completion = openai.chat.completions.create(model=model, messages=ASK, temperature=0, max_tokens=24, **options)
    assert completion.model == model
    return completion.choices[0].message.content or ""


@pytest.fixture(scope="module")
def two_adapters(served: Served, make_adapter: Callable[[int], Path]) -> tuple[str, str]:
    """Two live adapters, which fill both slots of the engine."""
    for seed, name in ((1, "first"), (2, "second")):
        result = served.turntable("adapters", "add", name, make_adapter(seed), "--promote", "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)[0]["state"] == "ready"
    return "first", "second"


def test_a_plain_answer_and_its_row(served: Served) -> None:
    before = usage_of(served, "base")
    completion = served.openai.chat.completions.create(model="base", messages=ASK, temperature=0, max_tokens=16)
    assert completion.choices[0].message.content
    assert completion.usage is not None
    assert eventually(lambda: usage_of(served, "base")["requests"] == before["requests"] + 1)
    after = usage_of(served, "base")
    assert after["completion_tokens"] - before.get("completion_tokens", 0) == completion.usage.completion_tokens
    assert after["prompt_tokens"] - before.get("prompt_tokens", 0) == completion.usage.prompt_tokens


def test_a_stream_says_the_same_as_a_plain_answer(served: Served) -> None:
    stream = served.openai.chat.completions.create(
        model="base", messages=ASK, temperature=0, max_tokens=24, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer(served.openai, "base")
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.model for chunk in chunks} == {"base"}


def test_an_adapter_answers_under_its_name_with_its_weights_named(
    served: Served, two_adapters: tuple[str, str]
) -> None:
    first, _ = two_adapters
    assert {model.id for model in served.openai.models.list()} >= {"base", *two_adapters}
    assert served.openai.models.retrieve(first).id == first
    raw = served.openai.chat.completions.with_raw_response.create(model=first, messages=ASK, max_tokens=4)
    digest = served.http.get(f"/admin/v1/adapters/{first}").json()["versions"][0]["digest"][:12]
    assert raw.headers["x-turntable-adapter"] == f"{first}@{digest}"
    assert raw.parse().system_fingerprint == f"turntable+{first}@{digest}"
    assert answer(served.openai, f"{first}@v1") == answer(served.openai, f"{first}@{digest}")


def test_adapters_answer_differently_from_the_base_and_from_each_other(
    served: Served, two_adapters: tuple[str, str]
) -> None:
    assert len({answer(served.openai, model) for model in ("base", *two_adapters)}) == 3


def test_answers_do_not_leak_between_models_in_one_batch(served: Served, two_adapters: tuple[str, str]) -> None:
    """Told by log-probabilities: in bfloat16 a batch of another size turns a text where two tokens are as likely."""
    models = ["base", *two_adapters]
    alone = {model: ask(served, model)[1] for model in models}
    with ThreadPoolExecutor(24) as pool:
        mixed = list(pool.map(lambda model: (model, ask(served, model)[1]), models * 8))
    assert [(model, nearest(answer, alone)) for model, answer in mixed] == [(model, model) for model, _ in mixed]


def test_promoting_another_version_switches_new_requests_at_once(
    served: Served, two_adapters: tuple[str, str], make_adapter: Callable[[int], Path]
) -> None:
    first, _ = two_adapters
    old = answer(served.openai, first)
    added = served.turntable("adapters", "add", first, make_adapter(3), "--json")
    assert json.loads(added.stdout)[0]["version"] == "v2"
    assert answer(served.openai, first) == old
    stale = served.turntable("adapters", "promote", first, "v2", "--expect-live", "v2")
    assert stale.returncode == 2
    assert "not the live version" in stale.stderr
    assert served.turntable("adapters", "promote", first, "v2", "--expect-live", "v1").returncode == 0
    new = answer(served.openai, first)
    assert new == answer(served.openai, f"{first}@v2") != old
    assert served.turntable("adapters", "promote", first, "v1").returncode == 0
    assert answer(served.openai, first) == old


def test_publishing_the_same_weights_again_is_the_same_version(
    served: Served, two_adapters: tuple[str, str], make_adapter: Callable[[int], Path]
) -> None:
    result = served.turntable("adapters", "add", two_adapters[1], make_adapter(2), "--json")
    assert json.loads(result.stdout)[0]["version"] == "v1"


def test_a_broken_adapter_is_refused_with_the_tensor_named_and_leaves_nothing(
    served: Served, make_adapter: Callable[[int], Path]
) -> None:
    directory = make_adapter(4)
    weights = load_file(directory / "adapter_model.safetensors")
    victim = next(name for name in weights if "lora_B" in name)
    save_file(weights | {victim: np.zeros((3, 8), np.float32)}, directory / "adapter_model.safetensors")
    stored = sorted(path.name for path in (served.data_dir / "adapters").iterdir())
    result = served.turntable("adapters", "add", "broken", directory)
    assert result.returncode == 2
    *steps, error = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert victim.removeprefix("base_model.model.").removesuffix(".lora_B.weight") in error
    assert all(step.startswith("broken: ") for step in steps)
    assert served.http.get("/admin/v1/adapters/broken").status_code == 404
    assert sorted(path.name for path in (served.data_dir / "adapters").iterdir()) == stored


def test_unknown_models_and_bad_parameters_are_the_openai_clients_own_errors(served: Served) -> None:
    with pytest.raises(NotFoundError) as unknown:
        answer(served.openai, "nobody")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(BadRequestError) as bad:
        served.openai.chat.completions.create(model="base", messages=ASK, max_tokens=-1)
    assert bad.value.param == "max_tokens"
    with pytest.raises(BadRequestError):
        served.openai.chat.completions.create(model="base", messages=[{"role": "user", "content": "long " * 5000}])


def test_structured_output_and_logprobs_pass_through(served: Served) -> None:
    completion = served.openai.chat.completions.create(
        model="base",
        messages=ASK,
        max_tokens=16,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        extra_body={"structured_outputs": {"choice": ["late", "lost"]}},
    )
    assert completion.choices[0].message.content in ("late", "lost")
    assert completion.choices[0].logprobs is not None


def test_a_client_that_leaves_stops_the_engine_and_is_billed_once(served: Served) -> None:
    before = usage_of(served, "base")
    content = json.dumps(
        {"model": "base", "messages": ASK, "stream": True, "max_tokens": 1900, "ignore_eos": True}
    ).encode()
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}authorization: Bearer {served.key}\r\n\r\n".encode() + content)
        received = client.recv(4096)
        assert received.startswith(b"HTTP/1.1 200")
        while received.count(b"data: ") < 3:  # the role, then tokens: the engine is at work
            received += client.recv(4096)
    assert eventually(lambda: engine_metric(served, "num_requests_running") == 0)
    assert eventually(lambda: usage_of(served, "base")["requests"] == before["requests"] + 1)
    assert eventually(lambda: usage_of(served, "base")["unsettled"] == before["unsettled"])
    generated = usage_of(served, "base")["completion_tokens"] - before.get("completion_tokens", 0)
    assert 0 < generated < 1900


def test_the_ledger_agrees_with_the_engines_own_counters(served: Served, two_adapters: tuple[str, str]) -> None:
    models = ("base", *two_adapters)
    _, before = booked_and_counted(served)
    booked = [usage_of(served, model) for model in models]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda model: answer(served.openai, model), models * 4))
    _, after = booked_and_counted(served)
    settled = [usage_of(served, model) for model in models]
    assert [row["unsettled"] for row in settled] == [0, 0, 0]
    for kind in ("prompt_tokens", "completion_tokens"):
        ours = sum(row[kind] for row in settled) - sum(row[kind] for row in booked)
        assert ours == after[kind] - before[kind] > 0


def test_costs_add_up_and_stand_beside_frontier_prices(served: Served, two_adapters: tuple[str, str]) -> None:
    document = served.http.get("/admin/v1/costs").json()
    allocated = sum(line["cost_nano_usd"] for line in document["data"])
    own = sum(one["nano_usd"] for one in document["overhead"])  # probes of publications
    assert allocated + document["idle_nano_usd"] + own == document["bill_nano_usd"] > 0
    assert {line["model"] for line in document["data"]} >= {"base", *two_adapters}
    asked = [line for line in document["data"] if line["completion_tokens"]]  # others were only loaded
    assert all(cost > 0 for line in asked for cost in line["elsewhere_nano_usd"].values())
    table = served.turntable("costs")
    assert table.returncode == 0
    assert two_adapters[0] in table.stdout
