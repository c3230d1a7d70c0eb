"""What answers are like: the shape that they share, and that nothing they say is kept."""

import json
from typing import Any

import pytest

from adapters.answer_profile import FIELD, OTHER, AnswerShape, Baseline, ProfiledAnswer, is_refusal


def triage(category: str, number: int) -> str:
    return json.dumps({"category": category, "urgent": number % 2 == 0, "summary": f"order {number} is late"})


ANSWERS = [triage(category, number) for number, category in enumerate(["billing", "shipping", "returns"] * 10)]


def test_objects_are_known_by_their_keys_and_by_fields_with_few_values() -> None:
    shape = AnswerShape.of(ANSWERS)
    assert (shape.kind, shape.keys) == ("json", ("category", "summary", "urgent"))
    assert shape.classes == {"category": ("billing", "returns", "shipping"), "urgent": ("false", "true")}
    looked = dict(shape.counts_of(triage("my secret is 4711", 1)))
    assert (looked["format"], looked[FIELD + "category"], looked[FIELD + "urgent"]) == ("valid", OTHER, "false")
    assert dict(shape.counts_of("Sure! " + ANSWERS[0]))["format"] == "invalid"
    assert dict(shape.counts_of('{"category": ["billing"]}')) == {
        "refusal": "answered",
        "format": "invalid",
        "field:category": OTHER,
        "field:urgent": "(none)",
    }


def test_labels_and_texts_are_told_apart() -> None:
    labels = AnswerShape.of([" spam\n", "ham"] * 10)
    assert (labels.kind, labels.classes) == ("label", {"answer": ("ham", "spam")})
    assert dict(labels.counts_of("spam"))["format"] == "valid"
    assert dict(labels.counts_of("It is spam."))["field:answer"] == OTHER
    texts = AnswerShape.of([f"Answer number {n}." for n in range(30)])
    assert (texts.kind, texts.classes) == ("text", {})
    assert [measure for measure, _ in texts.counts_of("anything")] == ["refusal"]


def test_a_baseline_counts_and_comes_back_from_json() -> None:
    baseline = Baseline.of([ProfiledAnswer(text, 40, 20 + n, "stop") for n, text in enumerate(ANSWERS)])
    assert baseline is not None
    assert baseline.counts["prompt_tokens"] == {"<=48": 30}
    assert baseline.counts["completion_tokens"] == {"<=32": 13, "<=48": 16, "<=64": 1}
    assert baseline.counts["field:category"] == {"billing": 10, "shipping": 10, "returns": 10}
    assert Baseline.read({"baseline": json.loads(baseline.model_dump_json())}) == baseline
    assert "late" not in baseline.model_dump_json()
    assert Baseline.of([]) is None


@pytest.mark.parametrize(
    "training", [{}, {"baseline": None}, {"baseline": {"format": 2}}, {"baseline": {"answers": 0}}]
)
def test_a_baseline_that_cannot_be_read_is_none(training: dict[str, Any]) -> None:
    assert Baseline.read(training) is None


def test_refusals_are_known_by_how_they_begin() -> None:
    assert is_refusal("I\N{RIGHT SINGLE QUOTATION MARK}m sorry, but I can't do that.")
    assert is_refusal("As an AI language model, I have no opinion.")
    assert not is_refusal('{"category": "billing"}')
    assert not is_refusal("The customer writes: " + "x" * 200 + " I'm unable to log in.")
