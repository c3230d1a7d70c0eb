"""Reading requests: what is refused, with which field named, and what the engine is asked."""

from typing import Any

import orjson
import pytest

from gateway.apis import APIS, Api, InferenceRequest
from gateway.errors import InvalidRequestError

CHAT = APIS["/v1/chat/completions"]
HI = [{"role": "user", "content": "hi"}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/embeddings": {"input": ["hi"]},
    "/v1/messages": {"messages": HI, "max_tokens": 3},
    "/v1/messages/count_tokens": {"messages": HI},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1, 2]},
}


def parse(api: Api, document: object) -> InferenceRequest:
    return api.parse(orjson.dumps(document), "base")


@pytest.mark.parametrize("path", list(APIS))
def test_every_api_takes_a_good_request_and_hands_unknown_fields_on(path: str) -> None:
    api = APIS[path]
    extras = {"temperature": 0.25, "min_tokens": 3, "tools": [{"type": "function"}], "x-new-field": {"a": [1]}}
    request = parse(api, GOOD[path] | extras | {"model": "tone"})
    sent = orjson.loads(api.engine_body(request, "tone@0123456789ab"))
    assert request.model == "tone"
    assert sent == GOOD[path] | extras | {"model": "tone@0123456789ab"} | (
        {"store": False} if path == "/v1/responses" else {}
    )


@pytest.mark.parametrize("path", list(APIS))
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff", b"null"])
def test_what_is_no_json_object_is_refused(path: str, body: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        APIS[path].parse(body, "base")
    assert caught.value.param is None


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/chat/completions", {"model": None}, "model"),
        ("/v1/chat/completions", {"model": 7}, "model"),
        ("/v1/chat/completions", {"model": ""}, "model"),
        ("/v1/chat/completions", {"messages": None}, "messages"),
        ("/v1/chat/completions", {"messages": "hi"}, "messages"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"stream": "yes"}, "stream"),
        ("/v1/chat/completions", {"stream_options": 1}, "stream_options"),
        ("/v1/completions", {"prompt": None}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": {"text": "hi"}}, "prompt"),
        ("/v1/responses", {"input": None}, "input"),
        ("/v1/responses", {"background": True}, "background"),
        ("/v1/responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("/v1/embeddings", {"input": ""}, "input"),
        ("/v1/messages", {"max_tokens": None}, "max_tokens"),
        ("/v1/messages", {"max_tokens": True}, "max_tokens"),
        ("/detokenize", {"tokens": None}, "tokens"),
    ],
)
def test_malformed_fields_are_refused_by_name(path: str, change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(APIS[path], GOOD[path] | {"model": "m"} | change)
    assert caught.value.param == param
    assert str(caught.value).endswith(".")


def test_streams_always_ask_the_engine_for_running_usage_and_keep_the_clients_other_options() -> None:
    request = parse(
        CHAT, {"model": "m", "messages": HI, "stream": True, "stream_options": {"include_obfuscation": False}}
    )
    sent = orjson.loads(CHAT.engine_body(request, "base"))
    assert sent["stream_options"] == {
        "include_usage": True,
        "continuous_usage_stats": True,
        "include_obfuscation": False,
    }


def test_tokenizing_without_a_model_means_the_base() -> None:
    assert parse(APIS["/tokenize"], {"prompt": "hi"}).model == "base"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_request_nested_without_end_is_the_clients_mistake(path: str) -> None:
    nested = b'{"a":' * 600 + b"1" + b"}" * 600
    body = orjson.dumps(GOOD[path] | {"model": "m"})[:-1] + b',"tools":[' + nested + b"]}"
    with pytest.raises(InvalidRequestError):
        APIS[path].engine_body(APIS[path].parse(body, "base"), "m")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/messages/count_tokens", "/tokenize", "/detokenize"])
def test_what_has_no_streams_is_never_taken_for_one(path: str) -> None:
    assert not parse(APIS[path], GOOD[path] | {"model": "m", "stream": True}).stream
