import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from trainer.scoring import NOTHING, Answer, Rate, judge, parse_document, score_model

SCHEMA = Draft202012Validator(
    {
        "type": "object",
        "properties": {"category": {"enum": ["billing", "shipping"]}, "priority": {"type": "string"}},
        "required": ["category", "priority"],
        "additionalProperties": False,
    }
)
EXPECTED = '{"category": "billing", "priority": "high"}'
FIELDS = ("category", "priority")


@pytest.mark.parametrize(
    ("answer", "valid", "right"),
    [
        (EXPECTED, True, {"category": True, "priority": True}),
        (f"\n{EXPECTED}  ", True, {"category": True, "priority": True}),
        ('{"priority": "high", "category": "billing"}', True, {"category": True, "priority": True}),
        ('{"category": "shipping", "priority": "high"}', True, {"category": False, "priority": True}),
        ('{"category": "billing"}', False, {"category": True, "priority": False}),
        ('{"category": "billing", "priority": "high", "x": 1}', False, {"category": True, "priority": True}),
        (f"Sure: {EXPECTED}", False, {"category": False, "priority": False}),
        (f"{EXPECTED} {EXPECTED}", False, {"category": False, "priority": False}),
        (EXPECTED[:-1], False, {"category": False, "priority": False}),
        ("null", False, {"category": False, "priority": False}),
        ("", False, {"category": False, "priority": False}),
    ],
)
def test_an_answer_counts_only_as_one_whole_document(answer: str, valid: bool, right: dict[str, bool]) -> None:
    verdict = judge(answer, EXPECTED, SCHEMA, FIELDS)
    assert verdict.schema_valid is valid
    assert verdict.fields == right


def test_null_is_a_document_and_nan_is_not() -> None:
    assert parse_document("null") is None
    assert parse_document("NaN") is NOTHING


def test_a_field_missing_on_both_sides_is_not_right() -> None:
    verdict = judge('{"category": "billing"}', '{"category": "billing"}', SCHEMA, ("priority",))
    assert verdict.fields == {"priority": False}


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)]
)
def test_wilson_intervals_match_published_values(hits: int, of: int, low: float, high: float) -> None:
    assert Rate(hits, of).interval == pytest.approx((low, high), abs=5e-4)


@given(st.integers(1, 500).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_intervals_hold_the_rate_and_stay_between_0_and_1(case: tuple[int, int]) -> None:
    rate = Rate(*case)
    low, high = rate.interval
    assert 0 <= low <= rate.value + 1e-12
    assert rate.value - 1e-12 <= high <= 1
    assert not math.isclose(low, high)


def test_a_model_is_scored_over_its_answers_with_failures_beside_them() -> None:
    answers = [
        Answer("m", 1, EXPECTED, "stop", 30.0, 10, 5),
        Answer("m", 2, "no idea", "length", 10.0, 10, 7),
        Answer("m", 3, '{"category": "billing", "priority": "low"}', "stop", 20.0, 10, 5),
        Answer("m", 4, error="the engine is gone"),
    ]
    score = score_model("m", answers, dict.fromkeys((1, 2, 3, 4), EXPECTED), SCHEMA, FIELDS)
    assert (score.requests, score.failed) == (4, 1)
    assert score.rates == {
        "schema_valid": Rate(2, 3),
        "category": Rate(2, 3),
        "priority": Rate(1, 3),
        "stopped": Rate(2, 3),
    }
    assert (score.latency_p50_ms, score.prompt_tokens, score.completion_tokens) == (20.0, 30, 17)
