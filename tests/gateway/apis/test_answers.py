"""Whole answers: the client's own name for the model, the exact weights, no nulls where OpenAI leaves a field out."""

from typing import Any

import orjson
import pytest

from gateway.apis import APIS, Names
from gateway.errors import EngineFailedError, GatewayError, ModelNotFoundError, OverloadedError
from gateway.usage import Usage

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
    assert whole("/v1/responses", {"model": "x", "usage": details}) == (
        {"model": "tone", "usage": details},
        Usage(9, 3, 2),
    )
    anthropic = {"input_tokens": 4, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0, "output_tokens": 3}
    assert whole("/v1/messages", {"model": "x", "usage": anthropic})[1] == Usage(9, 3, 5)
    assert whole("/v1/embeddings", {"model": "x", "usage": {"prompt_tokens": 6}})[1] == Usage(6)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"])
@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"usage":null,"choices":[]}', b'{"usage":7}'])
def test_an_answer_that_is_none_is_the_engines_failure(path: str, answer: bytes) -> None:
    with pytest.raises(EngineFailedError):
        APIS[path].whole(answer, NAMES)


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
