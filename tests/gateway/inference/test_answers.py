"""Whole answers: the client's own name for the model, the exact weights, no nulls where OpenAI leaves a field out."""

from typing import Any

import orjson
import pytest

from gateway.core import Usage, UsageSource
from gateway.errors import (
    EngineFailedError,
    GatewayError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
)
from gateway.inference.formats import APIS, Names

NAMES = Names("tone@0123456789ab", "tone")
CHAT_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "tone@0123456789ab",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            "logprobs": {"content": [{"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": []}]},
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ],
    "service_tier": None,
    "system_fingerprint": "vllm-0.32.0-858b47d9",
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4, "multimodal_tokens": None},
        "completion_tokens_details": None,
    },
    "prompt_logprobs": None,
}


def whole(path: str, answer: object) -> tuple[dict[str, Any], Usage]:
    body, usage = APIS[path].whole(orjson.dumps(answer), NAMES)
    return orjson.loads(body), usage


def test_a_chat_answer_keeps_what_the_schema_wants_and_loses_the_engines_nulls() -> None:
    answer, usage = whole("/v1/chat/completions", CHAT_ANSWER)
    (choice,) = answer["choices"]
    assert usage == Usage(5, 2, 4)
    assert (answer["model"], answer["system_fingerprint"]) == ("tone", "turntable+tone@0123456789ab")
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": CHAT_ANSWER["choices"][0]["message"]["tool_calls"],
    }
    assert choice["logprobs"] == CHAT_ANSWER["choices"][0]["logprobs"]
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert not {"service_tier", "prompt_logprobs"} & answer.keys()
    assert "completion_tokens_details" not in answer["usage"]


def test_responses_messages_and_embeddings_carry_the_clients_name_and_their_own_usage() -> None:
    details = {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
    response = {"model": "x", "status": "completed", "output": [], "usage": details}
    assert whole("/v1/responses", response) == (response | {"model": "tone"}, Usage(9, 3, 2))
    anthropic = {"input_tokens": 4, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0, "output_tokens": 3}
    message = {"model": "x", "content": [], "stop_reason": "end_turn", "usage": anthropic}
    assert whole("/v1/messages", message)[1] == Usage(9, 3, 5)
    assert whole("/v1/embeddings", {"model": "x", "data": [{}], "usage": {"prompt_tokens": 6}})[1] == Usage(6)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"])
@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"usage":null,"choices":[]}', b'{"usage":7}'])
def test_an_answer_that_is_none_is_the_engines_failure(path: str, answer: bytes) -> None:
    with pytest.raises(EngineFailedError):
        APIS[path].whole(answer, NAMES)


DEEP = b'{"x":' + b"[" * 400 + b"]" * 400 + b","  # read by the parser, and too deep for what writes


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/chat/completions", DEEP + b'"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'),
        ("/v1/completions", DEEP + b'"choices":[{"text":"x","finish_reason":"stop"}]}'),
        ("/v1/embeddings", DEEP + b'"data":[{}]}'),
        ("/v1/responses", DEEP + b'"status":"completed","output":[]}'),
        ("/v1/responses", b'{"status":{},"output":[]}'),
        ("/v1/messages", DEEP + b'"content":[],"stop_reason":"end_turn"}'),
    ],
)
def test_an_answer_that_cannot_be_rewritten_is_the_engines_failure(path: str, answer: bytes) -> None:
    with pytest.raises(EngineFailedError):
        APIS[path].whole(answer, NAMES)


def test_an_event_that_cannot_be_rewritten_is_the_engines_failure() -> None:
    api = APIS["/v1/messages"]
    request = api.parse(b'{"model":"tone","messages":[{"role":"user","content":"hi"}],"max_tokens":1}', "base")
    stream = api.stream(request, NAMES)
    assert stream.feed(b"event: message_start\ndata: " + DEEP + b'"message":{}}\n\n') == b""
    assert isinstance(stream.failure, EngineFailedError)


UNFINISHED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"choices": []}),
    ("/v1/chat/completions", {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": None}]}),
    ("/v1/completions", {"choices": [{"index": 0, "finish_reason": "stop"}, {"index": 1}]}),
    ("/v1/responses", {"status": "in_progress", "output": []}),
    ("/v1/responses", {"status": "completed"}),
    ("/v1/messages", {"content": [], "stop_reason": None}),
    ("/v1/embeddings", {"data": []}),
]


@pytest.mark.parametrize(("path", "answer"), UNFINISHED)
def test_an_answer_that_does_not_say_how_it_finished_is_the_engines_failure(path: str, answer: dict[str, Any]) -> None:
    with pytest.raises(EngineFailedError):
        whole(path, {"model": "x", "usage": {"prompt_tokens": 1, "input_tokens": 1}} | answer)


COUNTS: list[tuple[object, Usage, UsageSource]] = [
    ({"prompt_tokens": 10, "completion_tokens": 2}, Usage(10, 2), UsageSource.EXACT),
    ({"prompt_tokens": -1, "completion_tokens": 2}, Usage(0, 2), UsageSource.ESTIMATED),
    ({"prompt_tokens": 10, "completion_tokens": 2**63}, Usage(10), UsageSource.ESTIMATED),
    ({"prompt_tokens": 10, "completion_tokens": 2**31}, Usage(10), UsageSource.ESTIMATED),
    ({"prompt_tokens": "x", "completion_tokens": 2}, Usage(0, 2), UsageSource.ESTIMATED),
    ({"prompt_tokens": 10.0, "completion_tokens": 2.5}, Usage(10), UsageSource.ESTIMATED),
    ({"prompt_tokens": True, "completion_tokens": [2]}, Usage(), UsageSource.NONE),
    (
        {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 25}},
        Usage(10, 2, 10),
        UsageSource.ESTIMATED,
    ),
    (
        {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": -1}},
        Usage(10, 2),
        UsageSource.ESTIMATED,
    ),
    ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": 7}, Usage(10, 2), UsageSource.ESTIMATED),
    (None, Usage(), UsageSource.NONE),
    ("five", Usage(), UsageSource.NONE),
    ([], Usage(), UsageSource.NONE),
]


@pytest.mark.parametrize(("counted", "usage", "evidence"), COUNTS)
def test_odd_counts_become_the_nearest_they_can_mean_and_never_pass_for_exact(
    counted: object, usage: Usage, evidence: UsageSource
) -> None:
    answer, found = whole("/v1/chat/completions", CHAT_ANSWER | {"usage": counted})
    assert (found, found.evidence) == (usage, evidence)
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_odd_counts_of_every_api_are_read_alike() -> None:
    assert Usage.from_responses({"input_tokens": -5, "output_tokens": 3, "input_tokens_details": None}) == Usage(0, 3)
    message = {"input_tokens": 4, "cache_read_input_tokens": 2**63, "output_tokens": "3"}
    assert Usage.from_anthropic(message) == Usage(4)
    assert not Usage.from_anthropic(message).is_sound
    assert Usage.from_anthropic({}).evidence is UsageSource.NONE


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ModelNotFoundError("m"), "not_found_error"), (OverloadedError("full"), "overloaded_error")],
)
def test_anthropic_clients_get_anthropics_errors(error: GatewayError, kind: str) -> None:
    body = orjson.loads(APIS["/v1/messages"].error_body(error))
    assert body == {"type": "error", "error": {"type": kind, "message": str(error)}}
    event = APIS["/v1/messages"].error_event(error)
    assert event.startswith(b"event: error\ndata: ")
    assert event.endswith(b"\n\n")


def test_an_error_inside_a_response_stream_is_an_error_event_that_sdks_raise() -> None:
    event = APIS["/v1/responses"].error_event(EngineFailedError("It failed."))
    data = orjson.loads(event.removeprefix(b"event: error\ndata: "))
    assert (data["type"], data["message"], data["code"]) == ("error", "It failed.", "engine_failed")
    assert data["error"]["message"] == "It failed."


def test_the_error_event_of_a_response_stream_is_numbered_on_from_what_was_sent() -> None:
    error_event, error = APIS["/v1/responses"].error_event, EngineFailedError("It failed.")
    sent = b'data: {"sequence_number":6,"delta":"\\"sequence_number\\":99"}\n\ndata: {"sequence_number":7}\n\n'
    numbers = [
        orjson.loads(error_event(error, before).partition(b"data: ")[2])["sequence_number"] for before in (b"", sent)
    ]
    assert numbers == [0, 8]


def test_the_engines_word_for_a_limit_becomes_the_field_that_the_client_sent() -> None:
    api = APIS["/v1/chat/completions"]
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 9_000}
    request = api.parse(orjson.dumps(body), "base")
    told = InvalidRequestError("max_tokens=9000 cannot be greater than max_model_len=2048.", param="max_tokens")
    explained = api.explain(request, told, b"")
    assert explained.param == "max_completion_tokens"
    assert str(explained) == "max_completion_tokens=9000 cannot be greater than max_model_len=2048."
    message = APIS["/v1/messages"]
    asked = message.parse(orjson.dumps({"model": "m", "messages": body["messages"], "max_tokens": 9_000}), "base")
    said = InvalidRequestError("max_completion_tokens=9000 cannot be greater than max_model_len=2048.")
    assert (message.explain(asked, said, b"").param, str(message.explain(asked, said, b""))) == (
        "max_tokens",
        "max_tokens=9000 cannot be greater than max_model_len=2048.",
    )


BOUND: list[tuple[dict[str, Any], str | None]] = [
    ({"structured_outputs": {"regex": "foo**"}}, "structured_outputs"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"text": {"format": {"type": "json_schema"}}}, "text"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config"),
    ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tools"),
    ({"tools": [{"type": "function"}], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tools"),
    ({"tools": [{"type": "function"}]}, None),
    ({"tools": [{"type": "function"}], "tool_choice": {"type": "auto"}}, None),
    ({"response_format": {"type": "text"}, "tools": []}, None),
    ({}, None),
]


@pytest.mark.parametrize(("fields", "param"), BOUND)
def test_a_form_that_the_engine_cannot_follow_is_the_clients_mistake(fields: dict[str, Any], param: str | None) -> None:
    api, failure = APIS["/v1/chat/completions"], EngineFailedError("It failed.")
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields
    request = api.parse(orjson.dumps(body), "base")
    told = b'{"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}'
    explained = api.explain(request, failure, told)
    assert (explained.status, explained.param) == ((502, None) if param is None else (400, param))
    assert api.explain(request, failure, b'{"error":{"message":"EngineCore encountered an issue"}}') is failure
