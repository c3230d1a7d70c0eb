"""Every inference endpoint over the real engine: names, token counts against the engine's own, cancellation."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Served
from tests.e2e.inference_requests import HI, REQUESTS
from tests.e2e.readings import booked_and_counted, engine_metric, engine_totals
from tests.waiting import eventually


@pytest.fixture(scope="module")
def adapter(served: Served, make_adapter: Callable[[int], Path]) -> str:
    result = served.turntable("adapters", "add", "surface", make_adapter(5), "--promote", "--json")
    assert result.returncode == 0, result.stderr
    return "surface"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", list(REQUESTS))
def test_an_adapter_answers_in_the_clients_words_and_is_billed_what_the_engine_counted(
    served: Served, adapter: str, name: str, stream: bool
) -> None:
    path, body = REQUESTS[name]
    booked, counted = booked_and_counted(served)
    response = served.http.post(path, json=body | {"model": adapter, "stream": stream})
    assert response.status_code == 200, response.text
    assert response.headers["x-turntable-adapter"].startswith(f"{adapter}@")
    assert f'"model":"{adapter}"' in response.text
    assert f'"model":"{adapter}@' not in response.text
    after, now = booked_and_counted(served)
    assert after["requests"] - booked["requests"] == 1
    # OpenAI bills a prompt once; the engine counts it for each of its choices.
    for kind, times in (("prompt_tokens", body.get("n", 1)), ("completion_tokens", 1)):
        assert times * (after[kind] - booked[kind]) == now[kind] - counted[kind] > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["chat", "completions", "responses", "messages"])
def test_a_client_that_leaves_ends_the_engines_work_on_every_endpoint(served: Served, name: str, stream: bool) -> None:
    path, body = REQUESTS[name]
    limit = "max_output_tokens" if name == "responses" else "max_tokens"
    content = json.dumps(body | {"model": "base", "stream": stream, limit: 1800, "ignore_eos": True}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    host, port = served.url.removeprefix("http://").split(":")
    booked, counted = booked_and_counted(served)
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}authorization: Bearer {served.key}\r\n\r\n".encode() + content)
        # An answer that ends by itself, as messages may, can be over before anybody looks.
        assert eventually(lambda: engine_totals(served) != counted)
    assert eventually(lambda: engine_metric(served, "num_requests_running") == 0)
    after, now = booked_and_counted(served)
    assert after["requests"] - booked["requests"] == 1
    assert 0 < now["completion_tokens"] - counted["completion_tokens"] < 1800
    assert 0 < after["completion_tokens"] - booked["completion_tokens"] < 1800
    assert after["prompt_tokens"] > booked["prompt_tokens"]


def test_tokens_go_to_ids_and_back_with_the_adapters_template(served: Served, adapter: str) -> None:
    before, _ = booked_and_counted(served)
    ids = served.http.post("/tokenize", json={"model": adapter, "messages": HI}).json()["tokens"]
    counted = served.http.post("/v1/messages/count_tokens", json={"model": adapter, "messages": HI}).json()
    text = served.http.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert counted["input_tokens"] == len(ids)
    assert HI[0]["content"] in text
    assert booked_and_counted(served)[0] == before


def test_what_the_base_cannot_do_is_said_plainly(served: Served) -> None:
    refused = served.http.post("/v1/embeddings", json={"model": "base", "input": "hi"})
    assert refused.status_code == 400
    assert "another kind of model" in refused.json()["error"]["message"]
    stored = served.http.post("/v1/responses", json={"model": "base", "input": "hi", "background": True})
    assert (stored.status_code, stored.json()["error"]["param"]) == (400, "background")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": HI, "temperature": "hot"}, "temperature"),
        ("/v1/completions", {"prompt": "hi", "max_tokens": -1}, "max_tokens"),
        ("/v1/responses", {"input": "hi", "max_output_tokens": "many"}, "max_output_tokens"),
    ],
)
def test_the_engines_refusals_name_the_field_in_openais_shape(
    served: Served, path: str, body: dict[str, Any], param: str
) -> None:
    response = served.http.post(path, json=body | {"model": "base"})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["code"] is None


def test_anthropic_clients_are_refused_in_their_own_shape(served: Served) -> None:
    body = {"model": "nobody", "messages": HI, "max_tokens": 3}
    missing = httpx.post(f"{served.url}/v1/messages", json=body, headers={"x-api-key": served.key})
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    stranger = httpx.post(f"{served.url}/v1/messages", json=body, headers={"x-api-key": "tt-wrong"})
    assert (stranger.status_code, stranger.json()["error"]["type"]) == (401, "authentication_error")


@pytest.mark.parametrize(
    "path",
    ["/v1/responses/resp_1", "/v1/chat/completions/batch", "/invocations", "/adapters", "/v1/systemone", "/load"],
)
def test_no_other_path_of_the_engine_can_be_reached(served: Served, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert served.http.request(method, path).json()["error"]["code"] == "unknown_url"
