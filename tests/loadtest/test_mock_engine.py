"""The mock engine against what a real vLLM 0.32.0 answered (vllm_0_32_0.json), and its slots and faults."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.mock_engine import Fault, MockEngine, MockSettings, serving

CAPTURED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vllm_0_32_0.json").read_text())
LITERAL = {
    "object",
    "role",
    "owned_by",
    "type",
    "param",
    "code",
    "message",
    "index",
    "parent",
    "version",
    "organization",
}
MESSAGES = [{"role": "user", "content": "one two three"}]


def layout(value: Any, name: str = "") -> Any:
    """Keys in their order, with values only where every engine of this kind must have the same."""
    if isinstance(value, dict):
        return [(key, layout(inner, key)) for key, inner in value.items()]
    if isinstance(value, list):
        return [layout(inner) for inner in value]
    return value if name in LITERAL or value is None or isinstance(value, bool) else type(value).__name__


def body_layout(body: str) -> Any:
    """The layout of a JSON body or of every event of a stream; plain text as it is."""
    if body.startswith("{"):
        assert json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False) == body
        return layout(json.loads(body))
    return [body_layout(event.removeprefix("data: ")) if "{" in event else event for event in body.split("\n\n")]


def make_adapter(directory: Path) -> str:
    directory.mkdir()
    (directory / "adapter_config.json").write_text("{}")
    return str(directory)


def test_every_answer_is_laid_out_as_vllms(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    with serving(MockSettings(tokens=3)) as server, httpx.Client(base_url=server.url) as client:
        for case in CAPTURED:
            asked = json.loads(json.dumps(case["json"]).replace("ADAPTER", adapter))
            response = client.request(case["method"], case["path"], json=asked)
            assert response.status_code == case["status"], case["name"]
            assert response.headers.get("content-type") == case["content_type"], case["name"]
            assert body_layout(response.text) == body_layout(case["body"]), case["name"]


@pytest.mark.parametrize("itl_ms", [0, 1])
def test_a_stream_adds_up_to_the_answer_without_stream(itl_ms: float) -> None:
    with serving(MockSettings(tokens=5, itl_ms=itl_ms)) as server, httpx.Client(base_url=server.url) as client:
        whole = client.post("/v1/chat/completions", json={"messages": MESSAGES}).json()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        stream = client.post("/v1/chat/completions", json={"messages": MESSAGES, **options}).text
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    text = "".join(choice["delta"]["content"] for event in events for choice in event["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 5
    assert whole["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("asked", "tokens", "finish_reason"),
    [
        ({}, 5, "stop"),
        ({"max_tokens": 3}, 3, "length"),
        ({"max_tokens": 9}, 5, "stop"),
        ({"max_tokens": 9, "ignore_eos": True}, 9, "length"),
        ({"max_completion_tokens": 2}, 2, "length"),
    ],
)
def test_answers_end_where_the_request_says(asked: dict[str, Any], tokens: int, finish_reason: str) -> None:
    with serving(MockSettings(tokens=5)) as server:
        body = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": MESSAGES, **asked}).json()
    assert body["usage"]["completion_tokens"] == tokens
    assert body["choices"][0]["finish_reason"] == finish_reason


def test_a_fault_can_be_asked_for_by_one_request() -> None:
    with serving() as server, httpx.Client(base_url=server.url) as client:
        body = {"messages": MESSAGES, "mock_fault": "error_500"}
        broken = client.post("/v1/chat/completions", json=body)
        assert broken.status_code == 500
        assert "/srv/models/" in broken.json()["error"]["message"]
        assert client.post("/v1/chat/completions", json={"messages": MESSAGES}).status_code == 200
        unknown = client.post("/v1/chat/completions", json=body | {"mock_fault": "flood"})
        assert unknown.status_code == 400
        assert all(fault in unknown.json()["error"]["message"] for fault in Fault)


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_MID_STREAM])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_counted_as_aborted(fault: Fault, stream: bool) -> None:
    body = {"messages": MESSAGES, "stream": stream, "mock_fault": fault}
    settings = MockSettings(ttft_ms=0 if stream else 60_000, itl_ms=1)
    with serving(settings) as server, pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.2)
    assert (server.engine.aborted, server.engine.finished, server.engine.running) == (1, 0, 0)


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.DROP_MID_STREAM])
def test_a_dropped_connection_is_seen_by_the_client(fault: Fault) -> None:
    body = {"messages": MESSAGES, "stream": True, "mock_fault": fault}
    with serving() as server:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{server.url}/v1/chat/completions", json=body)
        assert httpx.get(f"{server.url}/health").status_code == 200


async def test_no_more_adapters_run_at_a_time_than_there_are_slots() -> None:
    engine = MockEngine(MockSettings(max_loras=1))
    started: list[str] = []
    three_run, may_end = asyncio.Barrier(4), asyncio.Event()

    async def request(name: str) -> None:
        async with engine.running_request(name):
            started.append(name)
            if not may_end.is_set():
                await three_run.wait()
                await may_end.wait()

    async with asyncio.TaskGroup() as group:
        for name in ("a", "b", "a", "base"):
            group.create_task(request(name))
        await three_run.wait()
        assert sorted(started) == ["a", "a", "base"]
        assert engine.running == 4
        may_end.set()
    assert sorted(started) == ["a", "a", "b", "base"]
    assert engine.stats()["resident"] == ["b"]
    assert (engine.loads, engine.running) == (2, 0)


async def test_the_adapter_used_longest_ago_leaves_its_slot_and_must_be_loaded_again() -> None:
    engine = MockEngine(MockSettings(max_loras=2))
    for name in ("a", "b", "a", "c", "a", "b"):
        async with engine.running_request(name):
            pass
    assert engine.loads == 4
    assert engine.stats()["resident"] == ["a", "b"]


async def test_no_request_makes_progress_while_an_adapter_is_loaded() -> None:
    engine = MockEngine(MockSettings(load_ms=20))
    loading = asyncio.create_task(engine.load("a", "path"))
    await asyncio.sleep(0)
    await engine.pause(0)
    assert "a" in engine.stats()["resident"]
    await loading


def test_unloading_forgets_the_name_but_not_the_slot(tmp_path: Path) -> None:
    load = {"lora_name": "a", "lora_path": make_adapter(tmp_path / "a")}
    with serving() as server, httpx.Client(base_url=server.url) as client:
        client.post("/v1/load_lora_adapter", json=load)
        client.post("/v1/unload_lora_adapter", json={"lora_name": "a"})
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["base"]
        assert client.get("/mock/stats").json()["resident"] == ["a"]


def test_with_a_key_only_v1_is_guarded() -> None:
    with serving(MockSettings(api_key="k")) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/health").status_code == 200
        refused = client.get("/v1/models", headers={"Authorization": "Bearer wrong"})
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
        assert client.get("/v1/models", headers={"Authorization": "Bearer k"}).status_code == 200


async def test_no_more_requests_run_at_a_time_than_the_batch_takes() -> None:
    engine = MockEngine(MockSettings(max_num_seqs=2))
    two_run, may_end = asyncio.Barrier(3), asyncio.Event()

    async def request() -> None:
        async with engine.running_request("base"):
            if not may_end.is_set():
                await two_run.wait()
                await may_end.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(request())
        await two_run.wait()
        assert (engine.running, engine.waiting) == (2, 1)
        may_end.set()
    assert (engine.running, engine.waiting) == (0, 0)


def test_a_share_of_the_requests_can_fail() -> None:
    engine = MockEngine(MockSettings(fault=Fault.ERROR_500, fault_share=0.25))
    assert [engine.next_fault() for _ in range(8)] == [None, None, None, Fault.ERROR_500] * 2


def test_metrics_count_tokens_under_vllms_names() -> None:
    with serving(MockSettings(tokens=5)) as server, httpx.Client(base_url=server.url) as client:
        for stream in (True, False):
            client.post("/v1/chat/completions", json={"messages": MESSAGES, "stream": stream})
        metrics = client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    counted = {name: family.samples[0].value for name, family in families.items()}
    assert counted.pop("vllm:prompt_tokens_created") > 0
    assert counted == {
        "vllm:num_requests_running": 0,
        "vllm:num_requests_waiting": 0,
        "vllm:prompt_tokens": 6,
        "vllm:generation_tokens": 10,
    }
