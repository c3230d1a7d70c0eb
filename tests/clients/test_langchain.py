"""langchain-openai against the real engine: invoke, stream, batch, tools, structured output, errors."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.clients.conftest import ASK, QUESTION, STRUCTURED, TOOL, Ticket
from tests.conftest import Served


def chat(served: Served, **options: Any) -> ChatOpenAI:
    """LangChain's chat model, pointed at the gateway as its documentation says."""
    settings: dict[str, Any] = {"model": "base", "temperature": 0, "max_tokens": 150, "max_retries": 0} | options
    return ChatOpenAI(base_url=f"{served.url}/v1", api_key=SecretStr(served.key), **settings)


@pytest.fixture
def plain(served: Served) -> str:
    """What openai-python gets for the same question."""
    asked: Any = {"model": "base", "messages": ASK, "temperature": 0, "max_tokens": 150}
    return served.openai.chat.completions.create(**asked).choices[0].message.content or ""


def test_invoke_answers_with_text_usage_and_the_models_name(served: Served, plain: str) -> None:
    message = chat(served).invoke([HumanMessage(QUESTION)])
    assert isinstance(message, AIMessage)
    assert message.content == plain
    assert message.response_metadata["model_name"] == "base"
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] > 0


def test_streamed_chunks_add_up_to_the_answer_with_usage(served: Served, plain: str) -> None:
    chunks: Iterator[AIMessageChunk] = chat(served, stream_usage=True).stream(QUESTION)
    whole = next(chunks)
    for chunk in chunks:
        whole += chunk
    assert whole.content == plain
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0


async def test_asynchronous_calls_and_streams_answer_the_same(served: Served, plain: str) -> None:
    model = chat(served)
    assert (await model.ainvoke(QUESTION)).content == plain
    assert "".join([str(chunk.content) async for chunk in model.astream(QUESTION)]) == plain


def test_a_batch_answers_every_question(served: Served, plain: str) -> None:
    begun = [message.content for message in chat(served, max_tokens=4).batch([QUESTION] * 4)]
    assert len(begun) == 4
    assert all(text and plain.startswith(str(text)) for text in begun), "later bf16 may part batches of another size"


def test_a_bound_tool_is_called_with_arguments_of_its_schema(served: Served) -> None:
    model = chat(served, **STRUCTURED).bind_tools([TOOL], tool_choice="file_ticket")
    (call,) = model.invoke(QUESTION).tool_calls
    assert call["name"] == "file_ticket"
    Ticket.model_validate(call["args"])


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_an_instance_of_the_model_asked_for(served: Served, method: Any) -> None:
    answer = chat(served, **STRUCTURED).with_structured_output(Ticket, method=method).invoke(QUESTION)
    assert isinstance(answer, Ticket)


def test_an_unknown_model_is_openais_not_found_error(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        chat(served, model="nobody").invoke(QUESTION)
    assert raised.value.code == "model_not_found"
