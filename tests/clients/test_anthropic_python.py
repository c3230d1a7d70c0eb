"""Anthropic's own client against the real engine: messages, streams, tools, token counts, errors in its shape."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.clients.conftest import ASK, TOOL, Away, Ticket
from tests.conftest import Served
from tests.gateway.conftest import KEY

# This client has no argument for the temperature any more; the field is still the API's.
GREEDY: Any = {"model": "base", "messages": ASK, "max_tokens": 150, "extra_body": {"temperature": 0}}
FILE_TICKET: Any = {"name": "file_ticket", "input_schema": TOOL["function"]["parameters"]}


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Anthropic]:
    """The client as its documentation builds it: the key travels as `x-api-key`."""
    with Anthropic(base_url=served.url, api_key=served.key, max_retries=0) as client:
        yield client


def text(message: anthropic.types.Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


def test_a_message_has_text_a_stop_reason_and_usage(client: Anthropic, served: Served) -> None:
    message = client.messages.create(**GREEDY)
    assert (message.type, message.role, message.model) == ("message", "assistant", "base")
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0
    chat = served.openai.chat.completions.create(model="base", messages=ASK, temperature=0, max_tokens=150)
    assert text(message) == chat.choices[0].message.content


def test_stop_sequences_and_max_tokens_are_told_as_the_reason(client: Anthropic) -> None:
    whole = text(client.messages.create(**GREEDY))
    stop = whole.split()[2]
    stopped = client.messages.create(**GREEDY, stop_sequences=[stop], system="")
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert text(stopped) == whole.partition(stop)[0]
    cut = client.messages.create(**GREEDY | {"max_tokens": 2})
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)


def test_a_stream_adds_up_to_the_message_with_usage(client: Anthropic) -> None:
    with client.messages.stream(**GREEDY) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert "content_block_delta" in kinds
    assert text(final) == text(client.messages.create(**GREEDY))
    assert final.model == "base"
    assert final.usage.output_tokens > 0


async def test_the_asynchronous_client_streams_text(client: Anthropic, served: Served) -> None:
    async with (
        AsyncAnthropic(base_url=served.url, api_key=served.key, max_retries=0) as asynchronous,
        asynchronous.messages.stream(**GREEDY) as stream,
    ):
        streamed = "".join([piece async for piece in stream.text_stream])
    assert streamed == text(client.messages.create(**GREEDY))


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "file_ticket"}])
def test_a_tool_that_must_be_used_is_used_with_input_of_its_schema(client: Anthropic, choice: Any) -> None:
    message = client.messages.create(
        model="base", messages=ASK, max_tokens=1500, tools=[FILE_TICKET], tool_choice=choice
    )
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert use.name == "file_ticket"
    Ticket.model_validate(use.input)
    history = [
        *ASK,
        {"role": "assistant", "content": [use.model_dump(include={"type", "id", "name", "input"})]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "filed"}]},
    ]
    assert client.messages.create(**GREEDY | {"messages": history}, tools=[FILE_TICKET]).content


def test_counted_tokens_are_the_ones_charged(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model="base", messages=ASK)
    assert counted.input_tokens == client.messages.create(**GREEDY).usage.input_tokens


def test_a_bearer_token_is_as_good_as_an_api_key(served: Served) -> None:
    with Anthropic(base_url=served.url, auth_token=served.key, max_retries=0) as client:
        assert client.messages.create(**GREEDY).content


@pytest.mark.parametrize(
    ("fields", "error", "kind"),
    [
        ({"model": "nobody"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"max_tokens": -1}, anthropic.BadRequestError, "invalid_request_error"),
    ],
)
def test_a_bad_request_is_the_clients_own_error_class_in_anthropics_shape(
    client: Anthropic, fields: dict[str, Any], error: type[anthropic.APIStatusError], kind: str
) -> None:
    with pytest.raises(error) as raised:
        client.messages.create(**GREEDY | fields)
    body: Any = raised.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["error"]["message"]


def test_a_wrong_key_is_an_authentication_error(served: Served) -> None:
    with (
        Anthropic(base_url=served.url, api_key="tt-wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as raised,
    ):
        stranger.messages.create(**GREEDY)
    body: Any = raised.value.body
    assert body["error"]["type"] == "authentication_error"


def test_an_engine_that_is_away_is_an_overload_that_says_when_to_come_back(away: Away) -> None:
    with (
        Anthropic(base_url=away.url, api_key=KEY, max_retries=0) as client,
        pytest.raises(anthropic.ServiceUnavailableError) as raised,
    ):
        client.messages.create(**GREEDY)
    body: Any = raised.value.body
    assert body["error"]["type"] == "overloaded_error"
    assert float(raised.value.response.headers["retry-after"]) > 0
