"""Reading requests: what is refused, with which field named, and what the engine is asked."""

from typing import Any

import orjson
import pytest

from gateway.core import InferenceRequest
from gateway.errors import InvalidRequestError
from gateway.inference.formats import APIS, Api

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


def test_an_adapter_is_asked_with_the_variables_of_its_chat_template_unless_the_client_sets_others() -> None:
    trained_with = {"enable_thinking": False, "tone": "plain"}
    for path, api in APIS.items():
        sent = orjson.loads(api.engine_body(parse(api, GOOD[path] | {"model": "m"}), "m", template_kwargs=trained_with))
        has_chat = "messages" in GOOD[path] or path == "/v1/responses"
        assert sent.get("chat_template_kwargs") == (trained_with if has_chat else None), path
    chosen = GOOD[CHAT.path] | {"model": "m", "chat_template_kwargs": {"tone": "warm"}}
    sent = orjson.loads(CHAT.engine_body(parse(CHAT, chosen), "m", template_kwargs=trained_with))
    assert sent["chat_template_kwargs"] == {"enable_thinking": False, "tone": "warm"}
    assert "chat_template_kwargs" not in orjson.loads(
        CHAT.engine_body(parse(CHAT, GOOD[CHAT.path] | {"model": "m"}), "m")
    )


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


NUMBERS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": (
        *("n", "max_tokens", "max_completion_tokens", "min_tokens", "top_k", "top_logprobs", "seed", "priority"),
        *("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"),
        *("length_penalty", "truncate_prompt_tokens", "thinking_token_budget", "stream_interval"),
    ),
    "/v1/completions": ("n", "best_of", "max_tokens", "logprobs", "top_k", "seed", "temperature", "min_tokens"),
    "/v1/responses": ("max_output_tokens", "max_tool_calls", "top_k", "top_logprobs", "temperature", "seed"),
    "/v1/messages": ("max_tokens", "top_k", "top_p", "temperature"),
    "/v1/embeddings": ("dimensions", "truncate_prompt_tokens", "priority"),
}
FRACTIONS = frozenset(
    {"temperature", "top_p", "min_p", "length_penalty"}
    | {f"{kind}_penalty" for kind in ("frequency", "presence", "repetition")}
)


@pytest.mark.parametrize(("path", "field"), [(path, field) for path, names in NUMBERS.items() for field in names])
def test_a_number_is_a_number_and_nothing_that_reads_like_one(path: str, field: str) -> None:
    odd: list[object] = ["5", True, False, [5], {"a": 5}]
    odd += [] if field in FRACTIONS else [5.0, 1.5, 2**64 - 1]
    for value in odd:
        with pytest.raises(InvalidRequestError) as caught:
            parse(APIS[path], GOOD[path] | {"model": "m", field: value})
        assert caught.value.param == field, value
    huge = orjson.dumps(GOOD[path] | {"model": "m"})[:-1] + b',"' + field.encode() + b'":' + b"9" * 30 + b"}"
    if field not in FRACTIONS:
        with pytest.raises(InvalidRequestError):
            APIS[path].parse(huge, "base")
    for value in (1,) if field in APIS[path].required else (None, 1):
        parse(APIS[path], GOOD[path] | {"model": "m", field: value})


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("logit_bias", {"1": "5"}, "logit_bias"),
        ("logit_bias", [1], "logit_bias"),
        ("stop_token_ids", ["1"], "stop_token_ids"),
        ("allowed_token_ids", [1.0], "allowed_token_ids"),
        ("repetition_detection", {"min_count": 2.0}, "repetition_detection.min_count"),
        ("structured_outputs", ["a"], "structured_outputs"),
        ("vllm_xargs", {"kv_transfer_params": "x"}, "vllm_xargs"),
        ("messages", [7], "messages.0"),
        ("cache_salt", 7, "cache_salt"),
    ],
)
def test_numbers_within_fields_are_numbers_too(field: str, value: object, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(CHAT, {"model": "m", "messages": HI, field: value})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("path", "fields", "sequences"),
    [
        ("/v1/chat/completions", {"n": 5}, 5),
        ("/v1/chat/completions", {}, 1),
        ("/v1/completions", {"prompt": ["a"] * 1024, "n": 128}, 131_072),
        ("/v1/completions", {"prompt": ["a"] * 50, "n": 3, "best_of": 5}, 250),
        ("/v1/completions", {"prompt": [[1, 2], [3]], "n": 2}, 4),
        ("/v1/completions", {"prompt": [1, 2, 3], "n": 2}, 2),
        ("/v1/embeddings", {"input": ["a", "b"]}, 1),
        ("/v1/responses", {}, 1),
    ],
)
def test_sequences_are_prompts_times_answers(path: str, fields: dict[str, Any], sequences: int) -> None:
    assert parse(APIS[path], GOOD[path] | {"model": "m"} | fields).sequences == sequences


@pytest.mark.parametrize("path", list(APIS))
def test_the_engine_gets_our_salt_and_never_the_clients(path: str) -> None:
    api = APIS[path]
    request = parse(api, GOOD[path] | {"model": "m", "cache_salt": "theirs"})
    salt = orjson.loads(api.engine_body(request, "m", salt="ours"))["cache_salt"]
    assert salt == ("ours" if api.salted else "theirs")
    assert api.salted == (api.metered)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/messages/count_tokens", "/tokenize", "/detokenize"])
def test_what_has_no_streams_is_never_taken_for_one(path: str) -> None:
    assert not parse(APIS[path], GOOD[path] | {"model": "m", "stream": True}).stream
