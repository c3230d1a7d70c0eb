"""openai-python's chat completions against the real engine: plain, streamed, asynchronous, structured, with tools."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.clients.conftest import ASK, STRUCTURED, TOOL, Ticket
from tests.conftest import Served

GREEDY: Any = {"model": "base", "messages": ASK, "temperature": 0, "max_tokens": 150}


def greedy_text(served: Served) -> str:
    """The base's one answer at temperature 0."""
    return served.openai.chat.completions.create(**GREEDY).choices[0].message.content or ""


def test_an_answer_has_everything_the_clients_types_promise(served: Served) -> None:
    completion = served.openai.chat.completions.create(**GREEDY)
    choice = completion.choices[0]
    assert completion.object == "chat.completion"
    assert completion.id
    assert completion.created > 0
    assert completion.model == "base"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_max_tokens_ends_an_answer_and_says_so(served: Served) -> None:
    completion = served.openai.chat.completions.create(**GREEDY | {"max_tokens": 3})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3


def test_a_stream_without_include_usage_has_no_usage_in_any_chunk(served: Served) -> None:
    with served.openai.chat.completions.create(**GREEDY, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == greedy_text(served)
    assert all(chunk.usage is None for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_with_include_usage_ends_with_a_chunk_that_has_only_usage(served: Served) -> None:
    chunks = list(served.openai.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    plain = served.openai.chat.completions.create(**GREEDY).usage
    assert chunks[-1].usage is not None
    assert plain is not None
    assert chunks[-1].usage.prompt_tokens == plain.prompt_tokens
    assert chunks[-1].usage.completion_tokens == plain.completion_tokens
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])


def test_the_stream_helper_accumulates_a_whole_completion(served: Served) -> None:
    with served.openai.chat.completions.stream(**GREEDY) as stream:
        kinds = {event.type for event in stream}
        completion = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert completion.choices[0].message.content == greedy_text(served)


async def test_the_asynchronous_client_answers_many_at_once_and_streams(served: Served) -> None:
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0) as client:
        texts = await asyncio.gather(*(client.chat.completions.create(**GREEDY) for _ in range(8)))
        stream = await client.chat.completions.create(**GREEDY, stream=True)
        streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert {text.choices[0].message.content for text in texts} == {streamed}
        assert "base" in [model.id async for model in client.models.list()]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "file_ticket"}}])
def test_a_tool_that_must_be_called_is_called_with_arguments_that_obey_its_schema(served: Served, choice: Any) -> None:
    completion = served.openai.chat.completions.create(
        model="base", messages=ASK, tools=[TOOL], tool_choice=choice, **STRUCTURED
    )
    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.id
    assert call.function.name == "file_ticket"
    Ticket.model_validate_json(call.function.arguments)
    assert completion.choices[0].finish_reason == ("tool_calls" if choice == "required" else "stop")


def test_a_streamed_tool_call_adds_up_to_the_plain_one(served: Served) -> None:
    asked: Any = {"model": "base", "messages": ASK, "tools": [TOOL], "tool_choice": "required", **STRUCTURED}
    with served.openai.chat.completions.stream(**asked) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or []
    (plain,) = served.openai.chat.completions.create(**asked).choices[0].message.tool_calls or []
    assert plain.type == "function"
    assert streamed.function.name == "file_ticket"
    assert json.loads(streamed.function.arguments) == json.loads(plain.function.arguments)


def test_a_conversation_goes_on_after_the_tools_result(served: Served) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "file_ticket", "arguments": "{}"}}
    history: Any = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "filed under shipping"},
    ]
    completion = served.openai.chat.completions.create(model="base", messages=history, tools=[TOOL], max_tokens=8)
    assert completion.choices[0].message.content


def test_parse_returns_an_instance_of_the_model_asked_for(served: Served) -> None:
    completion = served.openai.chat.completions.parse(model="base", messages=ASK, response_format=Ticket, **STRUCTURED)
    assert isinstance(completion.choices[0].message.parsed, Ticket)


def test_json_object_mode_answers_an_object(served: Served) -> None:
    completion = served.openai.chat.completions.create(
        model="base", messages=ASK, response_format={"type": "json_object"}, **STRUCTURED
    )
    assert isinstance(json.loads(completion.choices[0].message.content or ""), dict)


def test_logprobs_come_for_every_token_with_the_alternatives_asked_for(served: Served) -> None:
    completion = served.openai.chat.completions.create(**GREEDY | {"max_tokens": 4}, logprobs=True, top_logprobs=3)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert max(token.top_logprobs, key=lambda other: other.logprob).token == token.token
    assert "".join(token.token for token in logprobs.content) == completion.choices[0].message.content


def test_n_gives_that_many_choices(served: Served) -> None:
    completion = served.openai.chat.completions.create(**GREEDY | {"temperature": 1}, n=2, seed=7)
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert all(choice.message.content for choice in completion.choices)


def test_an_answer_ends_before_the_stop_sequence(served: Served) -> None:
    whole = greedy_text(served)
    stop = whole.split()[2]
    completion = served.openai.chat.completions.create(**GREEDY, stop=[stop])
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].message.content == whole.partition(stop)[0]


def test_the_same_seed_gives_the_same_answer_and_others_differ(served: Served) -> None:
    def text(seed: int) -> str | None:
        asked = GREEDY | {"temperature": 1, "seed": seed}
        content: str | None = served.openai.chat.completions.create(**asked).choices[0].message.content
        return content

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(8)}) > 1
