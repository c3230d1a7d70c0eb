"""Reading a chat request: what is refused, with which field named, and what the engine is asked."""

import orjson
import pytest

from gateway.chat import ChatRequest
from gateway.errors import InvalidRequestError

GOOD = {"model": "tone", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"text"', None),
        (b'{"messages":[{}]}', "model"),
        (b'{"model":7,"messages":[{}]}', "model"),
        (b'{"model":"","messages":[{}]}', "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":"hi"}', "messages"),
        (b'{"model":"m","messages":[]}', "messages"),
        (b'{"model":"m","messages":[{}],"stream":"yes"}', "stream"),
        (b'{"model":"m","messages":[{}],"stream_options":1}', "stream_options"),
    ],
)
def test_malformed_bodies_are_refused_with_the_field(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ChatRequest.parse(body)
    assert caught.value.param == param
    assert str(caught.value).endswith(".")


def test_unknown_fields_reach_the_engine_untouched() -> None:
    extras = {"temperature": 0.25, "min_tokens": 3, "tools": [{"type": "function"}], "x-new-field": {"a": [1]}}
    sent = orjson.loads(ChatRequest.parse(orjson.dumps(GOOD | extras)).engine_body("tone@0123456789ab"))
    assert sent == GOOD | extras | {"model": "tone@0123456789ab"}


def test_streams_always_ask_the_engine_for_running_usage() -> None:
    request = ChatRequest.parse(orjson.dumps(GOOD | {"stream": True}))
    assert not request.include_usage
    sent = orjson.loads(request.engine_body("base"))
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
