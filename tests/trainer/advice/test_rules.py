"""No answer without a rule, no rule that cannot decide, and the numbers of the rules where they turn."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.advice.advice import advise
from trainer.advice.case import Case
from trainer.advice.rules import ARTICLES, RULES, RuleAnswer, judge

SHARES = st.none() | st.sampled_from([0.0, 0.5, 0.72, 0.9, 1.0])
COUNTS = st.none() | st.sampled_from([0, 19, 20, 99, 200, 499, 500, 3_300, 50_000])
BOOLEANS = st.none() | st.booleans()
CASES = st.fixed_dictionaries(
    {
        "need": st.sampled_from([None, "know", "do", "both", "unsure"]),
        "kind": st.sampled_from([None, "style", "format", "vocabulary", "classification", "instructions"]),
        "metric": st.sampled_from([None, "exact_match"]),
        "bar": st.sampled_from([None, 0.5, 0.9]),
        "prompt_tried": BOOLEANS,
        "prompt_score": SHARES,
        "requests_per_day": COUNTS,
        "examples": COUNTS,
        "smallest_class": COUNTS,
        "labels_agree": BOOLEANS,
        "facts_change": st.sampled_from([None, "never", "yearly", "monthly", "weekly", "daily"]),
        "private": BOOLEANS,
        "retrieval": BOOLEANS,
        "recall": SHARES,
        "wish": st.sampled_from([None, "quality", "cost", "latency"]),
    }
).filter(lambda facts: not (facts["prompt_tried"] is False and facts["prompt_score"] is not None))
CASES = CASES.filter(lambda facts: not (facts["retrieval"] is False and facts["recall"] is not None))
READY: dict[str, Any] = {
    "need": "do",
    "kind": "format",
    "metric": "exact_match",
    "bar": 0.9,
    "prompt_tried": True,
    "prompt_score": 0.5,
    "requests_per_day": 2_000,
    "examples": 5_000,
    "facts_change": "never",
}
# What turns a case that is ready for training into one that the rule decides.
DECIDED_BY: dict[str, dict[str, Any]] = {
    "prompt_untried": {"prompt_tried": False, "prompt_score": None},
    "no_metric": {"bar": None},
    "prompt_unscored": {"prompt_score": None},
    "bar_met": {"prompt_score": 0.9},
    "eighty_percent": {"prompt_score": 0.72},
    "private_knowledge": {"need": "know", "private": True},
    "knowledge": {"need": "know"},
    "changing_facts": {"facts_change": "monthly"},
    "recall_unmeasured": {"need": "both", "retrieval": True},
    "need_unclear": {"need": "unsure"},
    "handful": {"requests_per_day": 19},
    "labels_disagree": {"labels_agree": False},
    "too_few": {"examples": 199},
    "smaller_model": {"prompt_score": 0.95, "wish": "cost", "requests_per_day": 3_300},
    "form_and_facts": {"need": "both", "retrieval": True, "recall": 0.9},
    "pilot": {"examples": 200},
    "behaviour": {},
}


@settings(max_examples=300, deadline=None)
@given(CASES)
def test_every_case_gets_one_answer_whose_rule_holds_and_names_a_known_source(facts: dict[str, Any]) -> None:
    advice = advise(Case(name="t", **facts))
    rule = next(rule for rule in RULES if rule.name == advice.decided.rule)
    assert rule.holds(advice.case)
    assert all(not earlier.holds(advice.case) for earlier in RULES[: RULES.index(rule)])
    assert advice.decided.because
    assert advice.decided.number
    assert advice.decided.change
    assert any(short in advice.decided.source for short in ARTICLES)
    assert {ground.answer == RuleAnswer.FINE_TUNE for ground in advice.also} <= {advice.answer == RuleAnswer.FINE_TUNE}


@settings(max_examples=300, deadline=None)
@given(CASES)
def test_training_is_only_advised_where_a_prompt_was_measured_and_data_suffices(facts: dict[str, Any]) -> None:
    case = Case(name="t", **facts)
    if judge(case)[0].answer == RuleAnswer.FINE_TUNE:
        assert case.prompt_score is not None
        assert case.metric is not None
        assert case.bar is not None
        assert case.need in ("do", "both")
        assert case.labels_agree is not False
        assert (case.smallest_class if case.kind == "classification" else case.examples) or case.examples


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_can_decide(rule: Any) -> None:
    assert judge(Case(name="t", **READY | DECIDED_BY[rule.name]))[0] is rule


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        ({"prompt_score": 0.719}, RuleAnswer.FINE_TUNE),
        ({"prompt_score": 0.72}, RuleAnswer.PROMPT),
        ({"examples": 199}, RuleAnswer.NOT_YET),
        ({"examples": 100, "kind": "style"}, RuleAnswer.FINE_TUNE),
        ({"examples": 9_000, "kind": "classification", "smallest_class": 49}, RuleAnswer.NOT_YET),
        ({"facts_change": "daily", "retrieval": True}, RuleAnswer.FINE_TUNE),
        ({"requests_per_day": None}, RuleAnswer.FINE_TUNE),
    ],
)
def test_the_numbers_turn_where_they_are_said_to(facts: dict[str, Any], answer: RuleAnswer) -> None:
    assert judge(Case(name="t", **READY | facts))[0].answer == answer


def test_a_case_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt_tried is false"):
        Case(name="t", prompt_tried=False, prompt_score=0.5)
