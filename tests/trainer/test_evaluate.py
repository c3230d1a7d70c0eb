"""Comparing over real HTTP with the real OpenAI SDK; the other side is a small server with scripted models."""

import json
from pathlib import Path

import pytest

from tests.trainer.conftest import WriteJsonl, chat
from tests.trainer.scripted_gateway import KEY, RIGHT
from trainer.errors import DataError, EvaluationError
from trainer.evaluate import Comparison, Requirement, compare, unmet
from trainer.scoring import Rate
from trainer.task import Task


@pytest.fixture
def task(jsonl: WriteJsonl, tmp_path: Path) -> Task:
    jsonl(chat("easy one", RIGHT), chat("hard one", RIGHT), chat("third", RIGHT), name="test.jsonl")
    (tmp_path / "schema.json").write_text(
        json.dumps({"type": "object", "properties": {"category": {"enum": ["billing", "shipping"]}}}), encoding="utf-8"
    )
    fields: dict[str, object] = {"name": "t", "data": "test.jsonl", "json_schema": "schema.json"}
    return Task.model_validate({**fields, "fields": ["category"], "max_tokens": 32, "directory": tmp_path})


def asked(task: Task, gateway_url: str, *models: str, key: str = KEY) -> Comparison:
    return compare(task, models, gateway_url=gateway_url, key=key, on_answer=lambda done, total: None)


def test_every_row_is_asked_of_every_model_and_scored(task: Task, gateway_url: str) -> None:
    seen: list[tuple[int, int]] = []
    comparison = compare(
        task, ["good", "chatty", "wrong"], gateway_url=gateway_url, key=KEY, on_answer=lambda *n: seen.append(n)
    )
    rates = {score.model: (score.rates["schema_valid"], score.rates["category"]) for score in comparison.scores}
    assert rates == {
        "good": (Rate(3, 3), Rate(3, 3)),
        "chatty": (Rate(0, 3), Rate(0, 3)),
        "wrong": (Rate(3, 3), Rate(0, 3)),
    }
    assert seen == [(i, 9) for i in range(1, 10)]
    assert [(a.model, a.line) for a in comparison.answers] == [
        (m, i) for m in ("good", "chatty", "wrong") for i in (1, 2, 3)
    ]
    assert (comparison.scores[0].prompt_tokens, comparison.scores[0].completion_tokens) == (33, 21)


def test_failed_requests_are_kept_with_their_reason(task: Task, gateway_url: str) -> None:
    comparison = asked(task, gateway_url, "flaky")
    assert [(answer.line, answer.error) for answer in comparison.failures] == [(2, "Error code: 400 - too hard")]
    assert (comparison.scores[0].failed, comparison.scores[0].rates["schema_valid"]) == (1, Rate(2, 2))


def test_an_unknown_model_ends_the_comparison(task: Task, gateway_url: str) -> None:
    with pytest.raises(EvaluationError, match="the gateway refuses model nobody: Error code: 404 - no model nobody"):
        asked(task, gateway_url, "nobody")


def test_a_wrong_key_ends_the_comparison(task: Task, gateway_url: str) -> None:
    with pytest.raises(EvaluationError, match="refuses the key"):
        asked(task, gateway_url, "good", key="tt-wrong")


def test_no_gateway_ends_the_comparison(task: Task, unused_tcp_port: int) -> None:
    with pytest.raises(EvaluationError, match="start one with `turntable serve`"):
        asked(task, f"http://127.0.0.1:{unused_tcp_port}", "good")


def test_broken_held_out_rows_are_told_before_anything_is_asked(task: Task, unused_tcp_port: int) -> None:
    task.data_path.write_text("{\n", encoding="utf-8")
    with pytest.raises(DataError):
        asked(task, f"http://127.0.0.1:{unused_tcp_port}", "good")


def test_requirements_that_are_missed_are_named(task: Task, gateway_url: str) -> None:
    comparison = asked(task, gateway_url, "good", "wrong")
    required = [Requirement("wrong", "schema_valid", 0.9), Requirement("wrong", "category", 0.5)]
    assert unmet(comparison, required) == ["wrong: category is 0.000, below the required 0.5"]
    assert unmet(comparison, [Requirement("good", "category", 1.0)]) == []
