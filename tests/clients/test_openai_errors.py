"""What openai-python makes of trouble: its error classes, its automatic retries, its timeouts, its raw responses."""

from contextlib import ExitStack
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from loadtest.mock_engine.engine import Fault
from tests.clients.conftest import ASK, Away
from tests.conftest import Served
from tests.gateway.conftest import KEY, Attached
from tests.waiting import eventually


def received(attached_to_mock: Attached, mark: str) -> int:
    """How many requests with this content have reached the engine."""
    return sum(body["messages"][0]["content"] == mark for body in list(attached_to_mock.engine.received))


@pytest.mark.parametrize(
    ("fields", "error", "status", "code", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, 404, "model_not_found", None),
        ({"max_tokens": -1}, openai.BadRequestError, 400, None, "max_tokens"),
        ({"messages": []}, openai.BadRequestError, 400, None, "messages"),
        ({"messages": ASK * 500}, openai.BadRequestError, 400, "context_length_exceeded", None),
        ({"temperature": "warm"}, openai.BadRequestError, 400, None, None),
    ],
)
def test_a_bad_request_is_the_clients_own_error_class(
    served: Served, fields: dict[str, Any], error: type[openai.APIStatusError], status: int, code: str, param: str
) -> None:
    with pytest.raises(error) as raised:
        served.openai.chat.completions.create(**{"model": "base", "messages": ASK, "max_tokens": 8} | fields)
    assert raised.value.status_code == status
    assert raised.value.type == "invalid_request_error"
    assert raised.value.code == code
    assert param is None or raised.value.param == param
    assert raised.value.request_id


def test_a_wrong_key_is_an_authentication_error(served: Served) -> None:
    with (
        OpenAI(base_url=f"{served.url}/v1", api_key="tt-wrong") as stranger,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        stranger.models.list()
    assert (raised.value.status_code, raised.value.code) == (401, "invalid_api_key")


def test_an_error_within_a_stream_is_raised_after_what_came_before(attached_to_mock: Attached) -> None:
    with OpenAI(base_url=f"{attached_to_mock.url}/v1", api_key=KEY, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="base", messages=ASK, stream=True, extra_body={"mock_fault": Fault.ERROR_MID_STREAM}
        )
        chunks: list[object] = []
        with pytest.raises(openai.APIError, match="engine failed") as raised:
            chunks.extend(stream)
    assert chunks
    assert raised.value.code == "engine_failed"


def test_a_stream_that_breaks_off_is_an_error_after_what_came_before(attached_to_mock: Attached) -> None:
    with OpenAI(base_url=f"{attached_to_mock.url}/v1", api_key=KEY, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="base", messages=ASK, stream=True, extra_body={"mock_fault": Fault.DROP_MID_STREAM}
        )
        chunks: list[object] = []
        with pytest.raises(openai.APIError, match="closed the connection"):
            chunks.extend(stream)
    assert chunks


def test_a_503_is_retried_after_the_time_it_names_and_then_answered(away: Away) -> None:
    """The engine comes back while the client waits, and the caller never learns of it."""
    statuses: list[int] = []
    waits: list[str | None] = []
    with ExitStack() as stack:

        def engine_comes_back(response: httpx2.Response) -> None:
            statuses.append(response.status_code)
            waits.append(response.headers.get("retry-after"))
            if len(statuses) == 1:
                stack.enter_context(away.engine_back())

        http = httpx2.Client(event_hooks={"response": [engine_comes_back]})
        with OpenAI(base_url=f"{away.url}/v1", api_key=KEY, max_retries=1, http_client=http) as client:
            completion = client.chat.completions.create(model="base", messages=ASK)
    assert completion.choices[0].message.content
    assert statuses == [503, 200]
    assert float(waits[0] or 0) > 0


def test_a_bad_request_is_not_retried(attached_to_mock: Attached) -> None:
    mark = "not retried"
    with (
        OpenAI(base_url=f"{attached_to_mock.url}/v1", api_key=KEY, max_retries=2) as client,
        pytest.raises(openai.BadRequestError),
    ):
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": mark}], max_tokens=0)
    assert received(attached_to_mock, mark) == 1


def test_a_timeout_is_raised_after_all_retries_and_stops_the_engine_each_time(attached_to_mock: Attached) -> None:
    mark, aborted = "timeout", attached_to_mock.engine.aborted
    with (
        OpenAI(base_url=f"{attached_to_mock.url}/v1", api_key=KEY, max_retries=1, timeout=1) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.chat.completions.create(
            model="base", messages=[{"role": "user", "content": mark}], extra_body={"mock_fault": Fault.HANG}
        )
    assert eventually(lambda: attached_to_mock.engine.aborted == aborted + 2)
    assert received(attached_to_mock, mark) == 2


def test_raw_responses_carry_the_request_id_and_the_engines_time(served: Served) -> None:
    raw = served.openai.chat.completions.with_raw_response.create(
        model="base", messages=ASK, max_tokens=4, extra_headers={"x-request-id": "my-own-id"}
    )
    completion = raw.parse()
    assert raw.headers["x-request-id"] == completion._request_id == "my-own-id"
    assert float(raw.headers["openai-processing-ms"]) >= 0
    assert completion.system_fingerprint
    assert served.openai.chat.completions.create(model="base", messages=ASK, max_tokens=4)._request_id != "my-own-id"
