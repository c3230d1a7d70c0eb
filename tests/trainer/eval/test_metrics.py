"""What answers are worth: structure, classes and texts, against published values and the libraries themselves."""

from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from jsonschema import Draft202012Validator

from trainer.eval.answers import Answer
from trainer.eval.examples import NO_DOCUMENT, EvalExample, match_answer, parse_document
from trainer.eval.metrics import ArmSeries, bleu, f1, measure
from trainer.eval.statistics import Bootstrap
from trainer.eval.task import Task

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
    looked = match_answer(answer, EXPECTED, SCHEMA, FIELDS)
    assert looked.schema_valid is valid
    assert looked.fields == right


def test_null_is_a_document_and_nan_is_not() -> None:
    assert parse_document("null") is None
    assert parse_document("NaN") is NO_DOCUMENT
    missing = match_answer('{"category": "billing"}', '{"category": "billing"}', SCHEMA, ("priority",))
    assert missing.fields == {"priority": False}


def test_f1_has_the_values_of_scikit_learns_documentation() -> None:
    macro, classes = f1([*"021001"], [*"012012"])
    assert macro.value == pytest.approx(0.26667, abs=1e-4)
    assert [classes[name].value for name in "012"] == pytest.approx([0.8, 0.0, 0.0])
    junk, _ = f1(["billing", "???"], ["billing", "shipping"])
    assert junk.value == pytest.approx(0.5), "a label that nobody wants is an error, not a class"


def test_bleu_is_sacrebleus_corpus_score_and_resamples_like_it() -> None:
    pairs = [
        ("The dog bit the man.", "The dog bit the man."),
        ("It wasn't surprising.", "It was not unexpected."),
        ("The man had just bitten him.", "The man bit him first."),
        ("short", "a much longer reference than that"),
    ]
    score = sacrebleu.corpus_bleu([said for said, _ in pairs], [[wanted for _, wanted in pairs]]).score
    series = bleu(pairs)
    assert series.value == pytest.approx(score / 100)
    low, high = Bootstrap(seed=1, resamples=500).estimate(series).interval
    assert low < series.value < high


def measured(tmp_path: Path, answers: list[Answer], expected: list[str], **settings: Any) -> ArmSeries:
    task = Task(name="t", data="d", directory=tmp_path, **settings)
    items = [EvalExample(line, (), wanted, {}) for line, wanted in enumerate(expected, 1)]
    return measure(task, items, answers, SCHEMA if task.json_schema else None)


def test_an_arm_is_measured_over_its_answers_and_failures_are_left_out(tmp_path: Path) -> None:
    answers = [
        Answer("m", 1, EXPECTED, "stop", 30.0, 10, 5),
        Answer("m", 2, "no idea", "length", 10.0, 10, 7),
        Answer("m", 3, '{"category": "billing", "priority": "low"}', "stop", 20.0, 10, 6),
        Answer("m", 4, error="the engine is gone"),
    ]
    found = measured(tmp_path, answers, [EXPECTED] * 4, json_schema="s", fields=FIELDS, metrics=("f1_macro",))
    estimates = {name: Bootstrap(seed=0).estimate(series) for name, series in found.metrics.items()}
    assert {name: (round(one.value, 4), one.of) for name, one in estimates.items()} == {
        "correct": (0.3333, 3),
        "category": (0.6667, 3),
        "priority": (0.3333, 3),
        "field_accuracy": (0.5, 3),
        "schema_valid": (0.6667, 3),
        "f1_macro": (0.8, 3),
        "stopped": (0.6667, 3),
        "length": (6.0, 3),
    }


def test_rouge_has_the_values_of_its_documentation(tmp_path: Path) -> None:
    wanted, said = "The quick brown fox jumps over the lazy dog", "The quick brown dog jumps on the log."
    found = measured(tmp_path, [Answer("m", 1, said, "stop")], [wanted], metrics=("rouge1", "rougeL", "exact_match"))
    values = {name: series.value for name, series in found.metrics.items()}
    assert (values["rouge1"], values["rougeL"]) == pytest.approx((0.70588, 0.58824), abs=1e-4)
    assert (values["exact_match"], values["correct"]) == (0.0, 0.0)
