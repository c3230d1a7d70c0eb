"""Feedback: only on one's own requests, kept as the client sends it, and good enough to train on."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, insert
from typer.testing import CliRunner

from gateway.admin_api.quality import MAX_BYTES
from gateway.auth import Caller, Scope
from gateway.cli.feedback import app
from gateway.errors import NotFoundError
from gateway.metering import usage_ledger
from gateway.quality.feedback import Feedback, FeedbackStore
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import KEY, Attached
from tests.gateway.releases.conftest import gateway_with_versions
from trainer.cli.data import app as data

ASKED = [{"role": "system", "content": "Triage."}, {"role": "user", "content": "Where is order 7?"}]
GIVEN = {"role": "assistant", "content": "billing"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    with gateway_with_versions(tmp_path_factory.mktemp("feedback"), MockSettings(tokens=2)) as attached:
        yield attached


def a_key(gateway: Attached, tenant: str) -> dict[str, str]:
    made = gateway.http.post("/admin/v1/keys", json={"name": "app", "tenant": tenant}).json()
    return {"authorization": f"Bearer {made['key']}"}


def ask(gateway: Attached, headers: dict[str, str], **more: str) -> str:
    body = {"model": "mine", "messages": ASKED}
    answer = gateway.http.post("/v1/chat/completions", json=body, headers=headers | more)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


def give(gateway: Attached, headers: dict[str, str], **body: object) -> httpx.Response:
    return gateway.http.post("/v1/feedback", json=body, headers=headers)


def rows(gateway: Attached, **query: str) -> list[dict[str, Any]]:
    return list(gateway.http.get("/admin/v1/feedback", params=query).json()["data"])


def test_feedback_is_on_ones_own_requests_and_the_newest_word_counts(gateway: Attached) -> None:
    acme, other = a_key(gateway, "acme"), a_key(gateway, "other")
    ours, named = ask(gateway, acme), ask(gateway, acme, **{"x-request-id": "order-7"})
    assert named == "order-7"
    for headers, request_id in ((other, ours), (other, named), (acme, "req_nobody"), ({}, ours)):
        foreign = give(gateway, headers, request_id=request_id, rating="bad")
        assert foreign.status_code == 404, "whose request it is, is nobody else's business"
        assert rows(gateway) == []
    first = give(gateway, acme, request_id=ours, rating="bad", tags=["wrong-class"])
    assert (first.status_code, first.json()["rating"], first.json()["messages"]) == (200, -1, None)
    for _ in range(2):
        assert give(gateway, acme, request_id=ours, rating=0.5).status_code == 200
    assert give(gateway, acme, request_id="order-7", rating="good", comment="quick").status_code == 200
    found = {row["request_id"]: row for row in rows(gateway, tenant="acme")}
    assert len(found) == 2, "saying it again is no second piece"
    assert (found[ours]["rating"], found[ours]["tags"], found[ours]["adapter"]) == (0.5, [], "mine")
    assert gateway.http.get("/v1/feedback", headers=acme).status_code == 405
    assert gateway.http.get("/admin/v1/feedback", headers=acme).status_code == 403


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"rating": "fine"}, 400, "rating"),
        ({"rating": True}, 400, "rating"),
        ({"rating": 2}, 400, "rating"),
        ({"tags": ["a b"]}, 400, "tags.0"),
        ({"messages": [GIVEN]}, 400, None),
        ({"messages": [{"role": "oracle", "content": "x"}]}, 400, "messages.0.role"),
        ({"answer": "x"}, 400, "answer"),
        ({"expected": "x" * MAX_BYTES}, 413, None),
    ],
)
def test_malformed_feedback_names_the_field(
    gateway: Attached, fields: dict[str, Any], status: int, param: str | None
) -> None:
    refused = gateway.http.post("/v1/feedback", json={"request_id": "x", "rating": 1} | fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), refused.text


def test_what_was_expected_becomes_data_that_passes_the_check_and_is_forgotten_with_its_tenant(
    gateway: Attached, tmp_path: Path
) -> None:
    headers = a_key(gateway, "trainer")
    for number in range(3):
        asked = [ASKED[0], {"role": "user", "content": f"Where is order {number}?"}]
        messages = [*asked, GIVEN] if number else asked
        request_id = ask(gateway, headers)
        assert give(
            gateway, headers, request_id=request_id, rating="bad", messages=messages, expected=f"shipping {number}"
        ).is_success
    assert give(gateway, headers, request_id=ask(gateway, headers), rating="good").is_success
    environment = {"TURNTABLE_GATEWAY_URL": gateway.url, "TURNTABLE_ADMIN_KEY": KEY, "COLUMNS": "200"}

    def turntable(*words: str) -> str:
        ended = CliRunner().invoke(app, [*words], env=environment)
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    chat, pairs = tmp_path / "chat.jsonl", tmp_path / "pairs.jsonl"
    assert turntable("export", str(chat), "--tenant", "trainer").startswith("3 rows from 4 pieces")
    assert turntable("export", str(pairs), "--pairs", "--tenant", "trainer").startswith("2 rows from 4 pieces")
    first = json.loads(chat.read_text().splitlines()[0])
    assert first["messages"] == [ASKED[0], {"role": "user", "content": "Where is order 0?"}, _answer("shipping 0")]
    preferred = json.loads(pairs.read_text().splitlines()[0])
    assert (preferred["preferred_output"], preferred["non_preferred_output"]) == ([_answer("shipping 1")], [GIVEN])
    for file in (chat, pairs):
        checked = CliRunner().invoke(data, ["check", str(file), "--json"])
        assert json.loads(checked.stdout)["files"][0]["problems"] == [], checked.output
    assert "messages, expected" in turntable("list", "--tenant", "trainer")

    gateway.http.put("/admin/v1/tenants/trainer", json={"rpm": 1000})
    for key in gateway.http.get("/admin/v1/keys", params={"tenant": "trainer"}).json()["data"]:
        gateway.http.delete(f"/admin/v1/keys/{key['id']}")
    assert gateway.http.delete("/admin/v1/tenants/trainer").is_success
    assert rows(gateway, tenant="trainer") == []
    told = gateway.http.get("/admin/v1/audit?subject=tenant:trainer&limit=1").json()["data"][0]
    assert (told["action"], told["evidence"]) == ("forget_feedback", {"deleted": 4})
    assert turntable("forget", "nobody") == "0 pieces of feedback deleted.\n"


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_a_key_that_speaks_twice_at_once_leaves_one_piece(database: Engine) -> None:
    with database.begin() as connection:
        row = {"request_id": "r", "attempt": 1, "opened_us": 1, "state": "settled", "tenant": "acme", "key_id": "k"}
        connection.execute(insert(usage_ledger).values(**row, model="mine", adapter="mine", stream=False))
    book, caller = FeedbackStore(database, lambda: None), Caller("k", "acme", frozenset({Scope.INFERENCE}))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: book.store(Feedback("r", n / 4, comment="x"), caller), range(4)))
    assert len(book.rows(adapter="mine")) == 1
    assert book.count("mine", 0) == (1, 0)
    book.store(Feedback("r", -0.1), caller)
    assert book.count("mine", 0) == (1, 1)
    with pytest.raises(NotFoundError):
        book.store(Feedback("other", 1), caller)
