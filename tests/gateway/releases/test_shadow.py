"""Shadow requests: after the answer, never instead of it, compared, on the ledger by themselves, dropped if busy."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.releases.answer_text import text_of
from gateway.releases.shadow import similarity
from loadtest.mock_engine.engine import Fault, MockSettings
from tests.gateway.conftest import Attached
from tests.gateway.releases.conftest import gateway_with_versions
from tests.waiting import eventually


def shadow_of(gateway: Attached) -> dict[str, Any]:
    document: dict[str, Any] = gateway.http.get("/admin/v1/adapters/mine").json()
    return document["shadow_mirror"] or {}


def has_answered(gateway: Attached, count: int) -> bool:
    return bool(shadow_of(gateway)["answered"] == count)


def usage(gateway: Attached) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = gateway.http.get("/admin/v1/usage").json()["data"]
    return rows


def begin(gateway: Attached, percent: float = 100) -> tuple[str, str]:
    """Shadow v1 with v2; returns the engine's names of the two."""
    body = {"version": "v2", "percent": percent}
    assert gateway.http.post("/admin/v1/adapters/mine/shadow", json=body).status_code == 200
    versions = gateway.http.get("/admin/v1/adapters/mine").json()["versions"]
    return f"mine@{versions[0]['digest'][:12]}", f"mine@{versions[1]['digest'][:12]}"


def test_answers_come_from_live_and_are_compared_with_the_shadows(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=4)) as gateway:
        live, shadow = begin(gateway)
        for number in range(6):
            answer = gateway.chat(model="mine", temperature=0, stream=number % 2 == 0)
            assert answer.headers["x-turntable-adapter"] == live
            assert eventually(partial(has_answered, gateway, number + 1))
        assert [body["model"] for body in gateway.engine.received] == [live, shadow] * 6
        found = shadow_of(gateway)
        assert (found["equal_texts"], found["compared_texts"], found["mean_similarity"]) == (6, 6, 1.0)
        assert found["shadow"]["completion_tokens"] == found["live"]["completion_tokens"] == 24
        assert 'turntable_shadow_requests_total{model="mine",outcome="equal"} 6.0' in gateway.http.get("/metrics").text


def test_shadow_tokens_are_on_the_ledger_by_themselves_and_it_agrees_with_the_engine(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=4)) as gateway:
        begin(gateway)
        for _ in range(5):
            gateway.chat(model="mine")
        assert eventually(lambda: shadow_of(gateway)["answered"] + shadow_of(gateway)["dropped"] == 5)
        assert eventually(lambda: not any(row["unsettled"] for row in usage(gateway)))
        rows = {row["adapter"]: row for row in usage(gateway)}
        assert rows.keys() == {"mine", "mine (shadow)"}
        assert rows["mine"]["requests"] == 5
        assert sum(row["completion_tokens"] for row in rows.values()) == gateway.engine.generation_tokens
        assert sum(row["prompt_tokens"] for row in rows.values()) == gateway.engine.prompt_tokens
        keys = {row["key"] for row in gateway.http.get("/admin/v1/usage?group_by=key").json()["data"]}
        assert keys == {"admin", "shadow"}
        costs = gateway.http.get("/admin/v1/costs").json()["data"]
        assert {line["model"] for line in costs} == {"mine"}, "what was mirrored is overhead, and no client's"


def test_a_failing_shadow_is_counted_and_harms_no_client(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2)) as gateway:
        _, shadow = begin(gateway)
        gateway.engine.faults[shadow] = Fault.ERROR_500
        assert {gateway.chat(model="mine").status_code for _ in range(3)} == {200}
        assert eventually(lambda: shadow_of(gateway)["failed"] + shadow_of(gateway)["dropped"] == 3)
        assert shadow_of(gateway)["failed"] > 0


def test_what_would_wait_is_dropped_and_counted(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2), max_shadowed=1) as gateway:
        _, shadow = begin(gateway)
        gateway.engine.faults[shadow] = Fault.HANG
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda _: gateway.chat(model="mine").status_code, range(5)))
        assert answers == [200] * 5
        assert eventually(lambda: shadow_of(gateway)["dropped"] == 4)


def test_only_answered_requests_of_the_bare_name_are_shadowed(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2)) as gateway:
        live, shadow = begin(gateway)
        gateway.chat(model="mine@v1")
        gateway.chat(model="base")
        gateway.chat(model="mine", max_tokens=0)
        gateway.chat(model="mine")
        assert eventually(lambda: shadow_of(gateway)["answered"] == 1)
        gateway.http.delete("/admin/v1/adapters/mine/shadow")
        gateway.chat(model="mine")
        asked = [body["model"] for body in gateway.engine.received]
        assert (asked.count(live), asked.count(shadow)) == (4, 1), "one of them is the refused request's"


@pytest.mark.parametrize(
    ("answer", "is_stream", "text"),
    [
        (b'{"choices":[{"message":{"content":"Hello","role":"assistant"}}]}', False, "Hello"),
        (b'{"choices":[{"text":"Hello"}]}', False, "Hello"),
        (b'{"content":[{"type":"text","text":"Hel"},{"type":"tool_use","input":{"a":1}}]}', False, 'Hel{"a":1}'),
        (b'{"output":[{"type":"message","content":[{"type":"output_text","text":"Hello"}]}]}', False, "Hello"),
        (
            b'{"choices":[{"message":{"content":null,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}',
            False,
            "f{}",
        ),
        (
            b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n: keep-alive\n\n'
            b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\ndata: {"choices":[{"delta":{"content":"lo"}}]}\n\n'
            b"data: [DONE]\n\n",
            True,
            "Hello",
        ),
        (b'event: response.output_text.delta\ndata: {"delta":"Hello"}\n\n', True, "Hello"),
        (b'event: x\ndata: {"delta":{"type":"text_delta","text":"Hello"}}\n\n', True, "Hello"),
        (b"not json", False, ""),
    ],
)
def test_the_text_of_any_answer_is_found(answer: bytes, is_stream: bool, text: str) -> None:
    assert text_of(answer, is_stream=is_stream) == text


def test_texts_are_compared_by_their_first_five_hundred_words() -> None:
    """The matcher takes seconds for thousands of words that are alike, and a thread of its own for these."""
    begin_alike = "same " * 500
    assert similarity(begin_alike + "one", begin_alike + "other") == 0.9999
    assert similarity("a b c d", "a b c e") == 0.75
