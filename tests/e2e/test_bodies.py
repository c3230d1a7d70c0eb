"""What clients may ask of the real engine, and what it makes of it: limits, grammars, many answers, and its cache."""

import json
import socket
from typing import Any

import httpx
import pytest

from tests.conftest import Served
from tests.e2e.readings import engine_metric, present_run
from tests.waiting import eventually

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HI: Any = [{"role": "user", "content": "My parcel has not arrived."}]


def key_of(served: Served, tenant: str) -> httpx.Client:
    """A client with a new key of a tenant."""
    secret = served.http.post("/admin/v1/keys", json={"name": tenant, "tenant": tenant}).json()["key"]
    return httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {secret}"}, timeout=60)


@pytest.mark.parametrize(
    ("path", "body", "cached"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "A secret of tenant one. " * 60}]}, "prompt_tokens_details"),
        (COMPLETIONS, {"prompt": "Another secret of tenant one. " * 60}, "prompt_tokens_details"),
        (RESPONSES, {"input": "A third secret of tenant one. " * 60}, "input_tokens_details"),
    ],
)
def test_what_one_tenant_asked_is_not_cached_for_another(
    served: Served, path: str, body: dict[str, Any], cached: str
) -> None:
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    with key_of(served, "salt-one") as one, key_of(served, "salt-one") as colleague, key_of(served, "salt-two") as two:
        counts = []
        for client in (one, colleague, two, two):
            answer = client.post(path, json={"model": "base", limit: 2} | body)
            assert answer.status_code == 200, answer.text
            counts.append((answer.json()["usage"].get(cached) or {}).get("cached_tokens") or 0)
    first, same_tenant, other_tenant, other_again = counts
    assert first == other_tenant == 0
    assert same_tenant > 0 < other_again


OVER = 100_000
SCHEMA = {"type": "string", "minLength": -1}
COMPILED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": HI, "structured_outputs": {"regex": "foo**"}}, "structured_outputs"),
    (CHAT, {"messages": HI, "structured_outputs": {"grammar": "root ::= root"}}, "structured_outputs"),
    (
        CHAT,
        {"messages": HI, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        "response_format",
    ),
    (RESPONSES, {"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}, "text"),
]
FAULTS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": HI, "structured_outputs": ["a"]}, "structured_outputs"),
    (
        CHAT,
        {
            "messages": HI,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
            "tool_choice": "required",
        },
        "tools",
    ),
    (CHAT, {"messages": HI, "max_completion_tokens": OVER}, "max_completion_tokens"),
    (CHAT, {"messages": HI, "max_completion_tokens": 0}, "max_completion_tokens"),
    (CHAT, {"messages": HI, "max_tokens": OVER}, "max_tokens"),
    (COMPLETIONS, {"prompt": "x", "max_tokens": OVER}, "max_tokens"),
    (RESPONSES, {"input": "x", "max_output_tokens": OVER}, "max_output_tokens"),
    (COMPLETIONS, {"prompt": "x", "top_k": 2**63}, "top_k"),
    (CHAT, {"messages": [{"role": "bogus", "content": "x"}]}, "messages.0.role"),
]


@pytest.mark.parametrize(("path", "body", "param"), FAULTS)
def test_what_a_client_does_wrong_is_a_400_that_names_its_field(
    served: Served, path: str, body: dict[str, Any], param: str
) -> None:
    limits = {} if any(name.startswith("max_") for name in body) else {"max_tokens": 8, "max_output_tokens": 8}
    told = served.http.post(path, json={"model": "base"} | limits | body)
    assert (told.status_code, told.json()["error"]["param"]) == (400, param), told.text
    assert served.http.post(COMPLETIONS, json={"model": "base", "prompt": "x", "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize(("path", "body", "param"), COMPILED)
def test_what_the_engines_compilers_make_of_a_form_is_never_an_engines_failure(
    served: Served, path: str, body: dict[str, Any], param: str
) -> None:
    """Which compiler a form meets, and so whether it passes, depends on what the engine was asked before."""
    told = served.http.post(path, json={"model": "base", "max_tokens": 8, "max_output_tokens": 8} | body)
    assert told.status_code == 200 or (told.status_code, told.json()["error"]["param"]) == (400, param), told.text


def test_anthropics_clients_are_told_of_their_own_field(served: Served) -> None:
    told = served.http.post("/v1/messages", json={"model": "base", "messages": HI, "max_tokens": OVER})
    assert told.status_code == 400
    assert told.json()["error"]["message"].startswith("max_tokens=100000 cannot be greater")


def test_a_response_that_reaches_its_limit_ends_incomplete_and_numbered(served: Served) -> None:
    body = {"model": "base", "input": "My parcel has not arrived.", "max_output_tokens": 3, "stream": True}
    text = served.http.post(RESPONSES, json=body).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["status"] == "incomplete"
    assert events[-1]["response"]["incomplete_details"]["reason"] == "max_output_tokens"
    with served.openai.responses.stream(model="base", input="hi", max_output_tokens=3) as stream:
        kinds = [event.type for event in stream]
    assert kinds[-1] == "response.incomplete"


def test_many_answers_that_nobody_waits_for_are_booked_to_the_token(served: Served) -> None:
    before = present_run(served)
    body = {"model": "base", "prompt": ["My parcel"] * 32, "n": 4, "max_tokens": 200, "ignore_eos": True}
    content = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    host, port = served.url.removeprefix("http://").split(":")
    generated = engine_metric(served, "generation_tokens_total")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}authorization: Bearer {served.key}\r\n\r\n".encode() + content)
        assert eventually(lambda: engine_metric(served, "generation_tokens_total") > generated + 128)
    after = present_run(served)
    for kind in ("prompt_tokens", "completion_tokens"):
        ledger, engine = (after["tokens"][kind][side] - before["tokens"][kind][side] for side in ("ledger", "engine"))
        assert ledger == engine > 0, kind
