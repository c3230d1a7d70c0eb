"""Budgets as clients meet them, over whole gateways: never overshot, settled at what it cost, told in one sentence."""

import asyncio
from collections import Counter
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import create_engine, func, select

from gateway.metering import usage_ledger
from loadtest.mock_engine.app import MockServer, serving
from loadtest.mock_engine.engine import Fault, MockSettings
from tests.gateway.conftest import Attached
from tests.gateway.quota.conftest import ANSWER_NANO_USD, PROMPT_NANO_USD, Key, new_key, priced_gateway
from tests.waiting import eventually

_ANSWERS = 60
CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
COST = PROMPT_NANO_USD + 4 * ANSWER_NANO_USD
# The most that such a request may cost: its bytes and what a template adds, as tokens.
MOST = (256 + len(httpx.Request("POST", "http://x", json=ASKED).content)) * PROMPT_NANO_USD + 4 * ANSWER_NANO_USD


def spending_of(key: Key) -> dict[str, Any]:
    """The first budget of a key, in nano-USD."""
    (standing, *_) = key.gateway.http.get(f"/admin/v1/keys/{key.id}").json()["spending"]
    return {name: int(Decimal(value) * 10**9) if name.endswith("_usd") else value for name, value in standing.items()}


def booked(database_url: str, key_id: str) -> int:
    """What the ledger's rows of a key cost."""
    database = create_engine(database_url)
    with database.connect() as connection:
        query = select(func.coalesce(func.sum(usage_ledger.c.cost_nano_usd), 0))
        cost = connection.execute(query.where(usage_ledger.c.key_id == key_id)).scalar_one()
    database.dispose()
    return int(cost)


async def ask_in_parallel(keys: list[Key], count: int) -> Counter[str]:
    """Send so many requests at once, in turn to each of the gateways; what came of them."""

    async def ask(key: Key) -> str:
        url = httpx.URL(key.gateway.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        body = orjson.dumps(ASKED)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
        writer.write(f"{head}authorization: {key.headers['authorization']}\r\n\r\n".encode() + body)
        answer = await reader.read()
        writer.close()
        error = orjson.loads(answer.partition(b"\r\n\r\n")[2]).get("error")
        return "ok" if error is None else str(error["code"])

    return Counter(await asyncio.gather(*(ask(keys[number % len(keys)]) for number in range(count))))


def is_known(key: Key) -> bool:
    return key.post("/tokenize", {"prompt": "hi"}).status_code != httpx.codes.UNAUTHORIZED


def spend_the_rest(keys: list[Key]) -> int:
    """Send one request after the other until every gateway says that the budget is spent; how many were answered."""
    answered, going = 0, list(keys)
    while going:
        response = going[0].post(CHAT, ASKED)
        if response.is_success:
            answered += 1
        elif response.json()["error"]["code"] == "insufficient_quota":
            assert response.headers["x-should-retry"] == "false"
            assert "retry-after" not in response.headers
            going.pop(0)
        else:
            assert response.json()["error"]["code"] == "budget_in_flight"
            assert int(response.headers["retry-after"]) >= 1
    return answered


@pytest.mark.parametrize("gateways", [1, 2])
def test_a_thousand_requests_at_once_never_overshoot_and_all_of_the_money_can_be_spent(
    gateways: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'one.db'}" if gateways == 1 else request.getfixturevalue("postgres").migrated()
    with serving(MockSettings(ttft_ms=20)) as engine, ExitStack() as running:
        pepper = {"database_url": url, "key_pepper": "p" * 40}
        opened = [
            running.enter_context(priced_gateway(tmp_path / str(number), engine, **pepper))
            for number in range(gateways)
        ]
        budget = _ANSWERS * COST
        key = new_key(opened[0], budget_usd=str(Decimal(budget) / 10**9), budget_period="day")
        keys = [key.at(one) for one in opened]
        assert all(eventually(partial(is_known, one)) for one in keys)
        outcomes = asyncio.run(ask_in_parallel(keys, 1000))
        assert set(outcomes) <= {"ok", "budget_in_flight", "insufficient_quota"}
        assert 0 < outcomes["ok"] <= _ANSWERS
        answered = outcomes["ok"] + spend_the_rest(keys)
        standing = spending_of(key)
        assert standing["spent_usd"] == answered * COST == booked(url, key.id)
        assert budget - MOST < standing["spent_usd"] <= budget
        assert standing["left_usd"] == budget - standing["spent_usd"]
        assert standing["reserved_usd"] == 0


@pytest.fixture(scope="module")
def engine() -> Any:
    with serving(MockSettings(tokens=8)) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(engine: MockServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with priced_gateway(tmp_path_factory.mktemp("priced"), engine) as attached:
        yield attached


@pytest.mark.parametrize("fault", [None, Fault.DROP, Fault.DROP_MID_STREAM, Fault.ERROR_500, Fault.ERROR_MID_STREAM])
@pytest.mark.parametrize("stream", [False, True])
def test_whatever_becomes_of_a_request_its_budget_pays_what_the_ledger_says(
    gateway: Attached, fault: Fault | None, stream: bool
) -> None:
    key = new_key(gateway, budget_usd="1", rpm=1000, tpm=100_000, max_concurrency=1)
    for _ in range(2):  # one at a time: the second only runs when the first has given its place back
        assert gateway.http.post(CHAT, json=ASKED).is_success  # or the circuit opens at the third fault in a row
        response = key.post(CHAT, ASKED | {"stream": stream, "mock_fault": fault})
        assert response.status_code != httpx.codes.TOO_MANY_REQUESTS
    assert eventually(lambda: spending_of(key)["reserved_usd"] == 0)  # settled a moment after the answer has left
    standing = spending_of(key)
    url = f"sqlite:///{gateway.data_dir / 'turntable.db'}"
    assert standing["spent_usd"] == booked(url, key.id)
    assert (standing["spent_usd"] > 0) == (fault not in (Fault.DROP, Fault.ERROR_500))


def test_a_client_that_leaves_pays_what_was_generated(gateway: Attached) -> None:
    key = new_key(gateway, budget_usd="1", max_concurrency=1)
    body = ASKED | {"stream": True, "mock_fault": Fault.HANG_MID_STREAM}
    with gateway.http.stream("POST", CHAT, json=body, headers=key.headers) as stream:
        lines = stream.iter_lines()
        assert next(lines)
        assert spending_of(key)["reserved_usd"] > 0
        refused = key.post(CHAT, ASKED)
        assert refused.json()["error"]["message"].startswith(
            "Concurrency limit reached for this key: 1 requests at a time."
        )
    assert eventually(lambda: spending_of(key)["reserved_usd"] == 0)
    assert spending_of(key)["spent_usd"] == PROMPT_NANO_USD + 2 * ANSWER_NANO_USD
    assert key.post(CHAT, ASKED).is_success


def test_a_spent_budget_is_named_with_the_moment_in_which_it_renews(gateway: Attached) -> None:
    key = new_key(gateway, tenant="poor", budgets=[{"usd": "5", "period": "total"}])
    assert gateway.http.put("/admin/v1/tenants/poor", json={"budget_usd": "0.0001", "budget_period": "month"})
    error = key.post(CHAT, ASKED).json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert (
        "$0.000100000 left of the budget of this key's tenant ($0.000100 per month; it renews at 20" in error["message"]
    )
    assert "-01 00:00 UTC)" in error["message"]
    assert key.post("/v1/messages", ASKED).status_code == httpx.codes.TOO_MANY_REQUESTS
    assert key.post("/tokenize", {"model": "base", "prompt": "hi"}).status_code != 429  # free of charge
    shown = gateway.http.get("/metrics").text
    assert 'turntable_limit_refusals_total{reason="budget"}' in shown


def test_an_answer_without_a_maximum_may_cost_as_much_as_the_context_holds(gateway: Attached) -> None:
    key = new_key(gateway, budget_usd=str(Decimal(4096 * ANSWER_NANO_USD) / 10**9))
    asked = {"model": "base", "messages": ASKED["messages"]}
    assert key.post(CHAT, asked).json()["error"]["code"] == "insufficient_quota"
    assert key.post(CHAT, asked | {"max_completion_tokens": 4000}).is_success
    two = key.post(CHAT, asked | {"max_completion_tokens": 4000, "n": 2})
    assert two.json()["error"]["code"] == "insufficient_quota"


def test_without_a_price_a_budget_is_not_given_away(engine: MockServer, attached: Attached) -> None:
    key = new_key(attached, budget_usd="1")
    refused = key.post(CHAT, ASKED)
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert "--engine-usd-per-hour" in refused.json()["error"]["message"]
    free = new_key(attached, rpm=10)
    assert free.post(CHAT, ASKED).is_success
