"""Live answers are sampled, counted and compared with the training baseline; their text is stored nowhere."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from adapters.answer_profile import Baseline, ProfiledAnswer
from adapters.cli import app
from gateway.quality.sampler import AnswerProfileStore, ending_of, today
from loadtest.mock_engine.engine import MockSettings
from tests.adapters.conftest import write_base
from tests.gateway.conftest import KEY, Attached
from tests.gateway.releases.conftest import gateway_with_versions

MINE = "/admin/v1/adapters/mine"
# The version's training answers: labels of a token after prompts of two. The mock engine answers with sentences.
LEARNT = Baseline.of([ProfiledAnswer(("spam", "ham")[n % 2], 2, 2, "stop") for n in range(200)])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    assert LEARNT is not None
    scratch = tmp_path_factory.mktemp("watched")
    training = {"baseline": LEARNT.model_dump(mode="json"), "chat_template_sha256": "0" * 64}
    with gateway_with_versions(
        scratch,
        MockSettings(tokens=40),
        base_dir=write_base(scratch / "base"),
        training=training,
        watch_percent=100,
        retrain_feedback=2,
    ) as attached:
        yield attached


def measures(gateway: Attached, **query: str) -> dict[str, dict[str, Any]]:
    document = gateway.http.get(f"{MINE}/drift", params=query).json()
    return {measure["measure"]: measure for measure in document["measures"]}


def due(gateway: Attached) -> set[str]:
    return {trigger["reason"] for trigger in gateway.http.get(MINE).json()["retrain"] if trigger["is_due"]}


def test_answers_unlike_the_training_answers_are_drift_and_leave_only_counts(gateway: Attached) -> None:
    assert {measure["drift"] for measure in measures(gateway).values()} == {"too_few"}
    for number in range(60):
        gateway.chat(model="mine", messages=[{"role": "user", "content": "is this"}])
        gateway.chat(model="mine@v1", stream=True, messages=[{"role": "user", "content": "is this"}])
        if number < 10:
            gateway.chat(model="base")
            gateway.chat(model="mine", n=2)
            gateway.chat(model="mine", mock_fault="error_500")
    found = measures(gateway)
    assert {measure["answers"] for measure in found.values()} == {120}, "of the base, of two choices and errors none"
    assert found["prompt_tokens"]["drift"] == found["ended"]["drift"] == found["refusal"]["drift"] == "steady"
    assert {found[name]["drift"] for name in ("completion_tokens", "format", "field:answer")} == {"drift"}
    assert (found["format"]["baseline"], found["format"]["live"]) == (1, 0)
    assert measures(gateway, version="v2")["format"]["answers"] == 0
    said = gateway.chat(model="base").json()["choices"][0]["message"]["content"]
    words = said.split()[:3]
    kept = sqlite3.connect(gateway.data_dir / "turntable.db")
    buckets = {bucket for (bucket,) in kept.execute("SELECT bucket FROM watched_answers")}
    kept.close()
    assert buckets == {"<=8", "<=48", "stop", "answered", "invalid", "(other)"}
    assert not any(word in bucket for word in words for bucket in buckets)


def test_what_is_due_is_shown_and_measured(gateway: Attached) -> None:
    # The database was filled without a promotion through the gate, and the base has no such template.
    assert "age" not in due(gateway)
    assert {"drift", "base"} <= due(gateway)
    for _ in range(2):
        request_id = gateway.chat(model="mine").headers["x-request-id"]
        assert "feedback" not in due(gateway)
        gateway.http.post("/v1/feedback", json={"request_id": request_id, "rating": "bad"})
    assert "feedback" in due(gateway)

    gateway.http.post(f"{MINE}/promote", json={"version": 1})
    assert "age" not in due(gateway)
    assert "feedback" not in due(gateway), "feedback counts since the promotion"
    long_ago = (datetime.now(UTC) - timedelta(days=90, hours=1)).isoformat(sep=" ")
    with sqlite3.connect(gateway.data_dir / "turntable.db") as database:
        database.execute("UPDATE adapter_evidence SET at = ? WHERE kind = 'promotion'", (long_ago,))
    database.close()
    assert {"age", "feedback"} <= due(gateway)

    environment = {"TURNTABLE_GATEWAY_URL": gateway.url, "TURNTABLE_ADMIN_KEY": KEY, "COLUMNS": "200"}
    shown = CliRunner().invoke(app, ["drift", "mine"], env=environment)
    assert shown.exit_code == 0, shown.output
    for text in ("DUE drift: live answers drifted:", "DUE age: live for 90 days", "completion_tokens", "by chance"):
        assert text in shown.stdout
    assert "DUE base: the template served now" in CliRunner().invoke(app, ["show", "mine"], env=environment).stdout
    assert gateway.http.get("/admin/v1/adapters/nobody/drift").status_code == 404
    metrics = gateway.http.get("/metrics").text
    assert 'turntable_sampled_answers_total{model="mine",outcome="counted"}' in metrics


def test_counts_of_several_gateways_add_up(database: Engine) -> None:
    one, other = AnswerProfileStore(database), AnswerProfileStore(database)
    key = ("mine", "d" * 64, today(), "ended", "stop")
    old = ("mine", "d" * 64, today() - 500, "ended", "stop")
    one.add({key: 3, old: 1})
    other.add({key: 4})
    one.add({})
    assert one.read("mine", "d" * 64, 0) == {"ended": Counter(stop=8)}
    other.prune()
    assert one.read("mine", "d" * 64, 0) == other.read("mine", "d" * 64, today()) == {"ended": Counter(stop=7)}
    assert one.read("mine", "e" * 64, 0) == {}


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}', "stop"),
        (
            b'data: {"choices":[{"delta":{},"finish_reason":null}]}\n\ndata: {"choices":[{"finish_reason":"length"}]}',
            "length",
        ),
        (b'{"type":"message","stop_reason":"end_turn","content":[]}', "stop"),
        (b'{"status":"incomplete","output":[{"status":"completed"}]}', "length"),
        (b'{"choices":[{"message":{"content":"\\"finish_reason\\":\\"length\\""},"finish_reason":"stop"}]}', "stop"),
        (b"", "(other)"),
    ],
)
def test_how_an_answer_ended_is_read_from_any_api(answer: bytes, ended: str) -> None:
    assert ending_of(answer) == ended
