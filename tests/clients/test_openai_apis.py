"""openai-python's other resources against the real engine: legacy completions, responses, embeddings, adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.clients.conftest import ASK, QUESTION, Ticket
from tests.conftest import Served

PROMPT = "Where is"
# A legacy completion may end at once after a whole sentence; `ignore_eos` is vLLM's way to get all tokens asked for.
COMPLETE: Any = {
    "model": "base",
    "prompt": PROMPT,
    "temperature": 0,
    "max_tokens": 8,
    "extra_body": {"ignore_eos": True},
}
RESPOND: Any = {"model": "base", "input": QUESTION, "temperature": 0, "max_output_tokens": 150}
# As `STRUCTURED` in conftest; the penalty is vLLM's addition to this API.
DECISIVE: Any = RESPOND | {"max_output_tokens": 400, "extra_body": {"frequency_penalty": 1}}


def test_a_legacy_completion_has_text_and_usage(served: Served) -> None:
    completion = served.openai.completions.create(**COMPLETE)
    assert completion.object == "text_completion"
    assert completion.model == "base"
    assert completion.choices[0].text
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 8


def test_a_legacy_completion_answers_every_prompt_of_a_list(served: Served) -> None:
    completion = served.openai.completions.create(**COMPLETE | {"prompt": [PROMPT, QUESTION]})
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.choices[0].text == served.openai.completions.create(**COMPLETE).choices[0].text


def test_a_legacy_stream_adds_up_to_the_completion_and_ends_with_usage(served: Served) -> None:
    chunks = list(served.openai.completions.create(**COMPLETE, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert text == served.openai.completions.create(**COMPLETE).choices[0].text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


def test_a_response_has_output_text_and_usage(served: Served) -> None:
    response = served.openai.responses.create(**RESPOND)
    assert response.object == "response"
    assert response.model == "base"
    assert response.status == "completed"
    assert response.output_text
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_responses_stream_tells_its_life_in_order_and_adds_up(served: Served) -> None:
    with served.openai.responses.stream(**RESPOND) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == final.output_text == served.openai.responses.create(**RESPOND).output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.model == "base"
    assert final.usage is not None
    assert final.usage.output_tokens > 0


async def test_the_asynchronous_client_streams_responses_too(served: Served) -> None:
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0) as client:
        stream = await client.responses.create(**RESPOND, stream=True)
        kinds = [event.type async for event in stream]
    assert kinds[-1] == "response.completed"


def test_responses_parse_returns_an_instance_of_the_model_asked_for(served: Served) -> None:
    assert isinstance(served.openai.responses.parse(**DECISIVE, text_format=Ticket).output_parsed, Ticket)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "file_ticket"}])
def test_a_response_calls_the_tool_it_must_call(served: Served, choice: Any) -> None:
    tool: Any = {"type": "function", "name": "file_ticket", "parameters": Ticket.model_json_schema(), "strict": True}
    response = served.openai.responses.create(**DECISIVE, tools=[tool], tool_choice=choice)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "file_ticket"
    Ticket.model_validate_json(call.arguments)


def test_what_needs_stored_responses_is_refused_by_name(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        served.openai.responses.create(**RESPOND, previous_response_id="resp_1")
    assert raised.value.param == "previous_response_id"


def test_a_base_that_generates_refuses_embeddings_as_a_bad_request(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="embeddings"):
        served.openai.embeddings.create(model="base", input=QUESTION)


@pytest.mark.parametrize("resource", ["chat", "completions", "responses", "embeddings"])
def test_an_unknown_model_is_not_found_whatever_the_resource(served: Served, resource: str) -> None:
    client = served.openai
    ask: dict[str, Callable[[], object]] = {
        "chat": lambda: client.chat.completions.create(model="nobody", messages=ASK),
        "completions": lambda: client.completions.create(model="nobody", prompt=QUESTION),
        "responses": lambda: client.responses.create(model="nobody", input=QUESTION),
        "embeddings": lambda: client.embeddings.create(model="nobody", input=QUESTION),
    }
    with pytest.raises(openai.NotFoundError) as raised:
        ask[resource]()
    assert raised.value.code == "model_not_found"


def test_every_resource_names_the_weights_of_an_adapter_in_a_header(
    served: Served, make_adapter: Callable[[int], Path]
) -> None:
    added = served.turntable("adapters", "add", "clients", make_adapter(41), "--promote")
    assert added.returncode == 0, added.stderr
    digest = served.http.get("/admin/v1/adapters/clients").json()["versions"][0]["digest"][:12]
    raws = [
        served.openai.chat.completions.with_raw_response.create(model="clients", messages=ASK, max_tokens=4),
        served.openai.completions.with_raw_response.create(**COMPLETE | {"model": "clients"}),
        served.openai.responses.with_raw_response.create(**RESPOND | {"model": "clients"}),
    ]
    for raw in raws:
        assert raw.headers["x-turntable-adapter"] == f"clients@{digest}"
        assert raw.parse().model == "clients"
