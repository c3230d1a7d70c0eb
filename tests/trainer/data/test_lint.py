"""What a check finds in files, with small files made so that the findings are known."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.conftest import WriteJsonl, chat, pair
from trainer.data.estimate import (
    ASSUMED_SPEED,
    ASSUMED_TOKENS_PER_S,
    Machine,
    estimate,
    measured_speed,
    parameters_of,
    processor_speed,
)
from trainer.data.findings import AMBER, GREEN, RED, SIZES, Finding, Task, held_out_advice, verdict
from trainer.data.labels import Labels
from trainer.data.lint import LintOptions, LintReport, lint_files
from trainer.data.rendering import measure_lengths
from trainer.data.scan import read_rows
from trainer.training.loss_mask import Renderer

LONG = " ".join(f"word{number}" for number in range(30))


def found(*paths: Path, **wanted: Any) -> dict[str, list[str]]:
    """The places of each finding, without the file."""
    checkup = lint_files(paths, LintOptions(**wanted))
    return {
        one.name: [str(place).removeprefix(f"{paths[0].parent}/") for place in one.places] for one in checkup.findings
    }


def test_copies_and_near_copies_are_named_with_the_row_they_repeat(jsonl: WriteJsonl) -> None:
    path = jsonl(chat(LONG), chat("other"), chat(f"{LONG} more"), chat(LONG), chat("Other", id=4))
    places = found(path)
    assert places["duplicates"] == ["train.jsonl:4: has the same messages as line 1"]
    assert places["near_duplicates"] == [
        "train.jsonl:3: has nearly the same input as line 1",
        "train.jsonl:5: has nearly the same input as line 2",
    ]


def test_the_same_input_with_unlike_outputs_is_a_contradiction(jsonl: WriteJsonl) -> None:
    path = jsonl(chat("Who?", "A."), chat("who? ", "B."), chat("Who?", "a."), chat("Why?", "B."), chat("Who?", "B."))
    assert found(path)["contradictions"] == [
        'train.jsonl:2: has the same input as train.jsonl:1 but answers "B.", not "A."'.replace(
            "train.jsonl:1", f"{path}:1"
        )
    ]


def test_other_tools_may_have_another_answer(jsonl: WriteJsonl) -> None:
    tools = [{"type": "function", "function": {"name": "order_pizza"}}]
    assert "contradictions" not in found(
        jsonl(chat("Order a pizza.", "I cannot."), chat("Order a pizza.", tools=tools))
    )


def test_another_system_message_may_have_another_answer(jsonl: WriteJsonl) -> None:
    def row(system: str, answer: str) -> dict[str, object]:
        turns = [("system", system), ("user", LONG), ("assistant", answer)]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    path = jsonl(*[row("Say yes.", "yes"), row("Say no.", "no")] * 5)
    assert not {"contradictions", "near_contradictions"} & found(path).keys()


def test_near_inputs_of_unlike_classes_are_contradictions_unless_the_input_tells_them_apart(jsonl: WriteJsonl) -> None:
    rows = [chat(f"{LONG} {number}", "red") for number in range(9)] + [chat(f"{LONG} 99", "blue")]
    (place, *more) = found(jsonl(*rows))["near_contradictions"]
    assert 'but answers "blue", not "red"' in place or 'but answers "red", not "blue"' in place
    assert not more
    told = [chat(f"{LONG} red {number}", "red") for number in range(9)] + [chat(f"{LONG} blue 3", "blue")]
    assert "near_contradictions" not in found(jsonl(*told))


def test_near_contradictions_are_judged_by_the_label_field(jsonl: WriteJsonl) -> None:
    def row(number: int, category: str) -> dict[str, object]:
        return chat(f"{LONG} {number}", json.dumps({"category": category, "summary": f"text {number}"}))

    path = jsonl(*(row(number, "a") for number in range(9)), row(99, "b"))
    assert "near_contradictions" not in found(path)
    assert len(found(path, label_field="category")["near_contradictions"]) == 1


def test_pairs_that_turn_a_preference_round_are_contradictions(jsonl: WriteJsonl) -> None:
    row = pair()
    turned = pair(preferred_output=row["non_preferred_output"], non_preferred_output=row["preferred_output"])
    third = pair(preferred_output=[{"role": "assistant", "content": "Third."}])
    path = jsonl(row, third, turned, pair("Else?"))
    assert len(found(path)["conflicting_preferences"]) == 1
    assert "contradictions" not in found(path)


def test_leakage_between_files_is_found_by_row_by_nearness_and_by_group(jsonl: WriteJsonl) -> None:
    train = jsonl(chat(LONG, customer="x"), chat("a?", customer="y"))
    valid = jsonl(chat("b?", customer="z"), chat(f"{LONG} more", customer="z"), name="valid.jsonl")
    test = jsonl(chat("a?"), chat("c?", customer="x"), chat("b?", customer="q"), name="test.jsonl")
    places = found(train, valid, test, group_field="customer")
    assert places["leakage"] == [f"test.jsonl:1: is also in {train}:2", f"test.jsonl:3: is also in {valid}:1"]
    assert places["near_leakage"] == [f"valid.jsonl:2: has nearly the same input as {train}:1"]
    assert places["group_leakage"] == [f"test.jsonl:2: is of the same group as {train}:1"]
    assert "ungrouped" in places
    assert "group_leakage" not in found(train, valid, test)


def test_placeholders_and_personal_data_are_found_in_all_of_a_row(jsonl: WriteJsonl) -> None:
    call = {"type": "function", "function": {"name": "pay", "arguments": '{"card": 4111111111111111}'}}
    turns = [{"role": "user", "content": "Pay"}, {"role": "assistant", "tool_calls": [call]}]
    places = found(jsonl(chat("I am {{ name }}"), {"messages": turns}, chat(note="a@b.com")))
    assert places["placeholders"] == ["train.jsonl:1: contains the placeholder {{ name }}"]
    assert places["card"] == ["train.jsonl:2: contains a card number"]
    assert places["email"] == ["train.jsonl:3: contains an e-mail address"]


def test_a_file_of_conversations_and_pairs_is_red(jsonl: WriteJsonl) -> None:
    assert found(jsonl(chat(), pair()))["mixed"] == ["train.jsonl: contains 1 conversations and 1 pairs"]


def test_rare_classes_are_told(jsonl: WriteJsonl) -> None:
    rows = [chat(f"q{number}", "common") for number in range(20)] + [chat("r1", "rare"), chat("r2", "rare")]
    checkup = lint_files([jsonl(*rows)], LintOptions())
    assert [(one.field, dict(one.counts)) for one in checkup.balances] == [(None, {"common": 20, "rare": 2})]
    (unbalanced,) = (one for one in checkup.findings if one.name == "unbalanced")
    assert '20 rows of class "common" but 2 of "rare"' in unbalanced.message


def test_classes_are_those_outputs_that_come_again_and_again() -> None:
    labels = Labels()
    for number in range(60):
        labels.add(json.dumps({"kind": "ab"[number % 2], "id": number, "deep": {"x": 1}, "same": "s"}))
    assert [(one.field, dict(one.counts)) for one in labels.balances] == [("kind", {"a": 30, "b": 30})]
    nested = Labels("deep.kind")
    assert nested.add('{"deep": {"kind": "x"}}') == "x"
    assert nested.add("text") is None
    free = Labels()
    assert [free.add(f"Hello {number}") for number in range(3)] == ["Hello 0", "Hello 1", "Hello 2"]
    assert free.balances == ()


@pytest.mark.parametrize("task", SIZES)
def test_the_size_is_red_below_the_minimum_amber_below_the_recommended_and_else_green(
    jsonl: WriteJsonl, task: Task
) -> None:
    size = SIZES[task]
    classes = ("a", "b") if size.per_class else ("a",)
    for count, grade in ((size.minimum - 1, RED), (size.minimum, AMBER), (size.recommended, GREEN)):
        if count > 1_000:
            continue
        path = jsonl(*(chat(f"{n}", name) for n in range(count) for name in classes), *[chat("0", "a")] * 3)
        (finding,) = (one for one in lint_files([path], LintOptions(task=task)).findings if one.name == "size")
        assert finding.count == count
        assert finding.grade == grade


def test_the_size_is_judged_for_the_first_file_and_a_guessed_task_does_not_fail(jsonl: WriteJsonl) -> None:
    path = jsonl(*(chat(f"{n}", '{"a": 1}') for n in range(10)))
    (finding,) = (one for one in lint_files([path], LintOptions()).findings if one.name == "size")
    assert (finding.grade, finding.count) == (AMBER, 10)
    assert "guessed" in finding.message


def test_the_verdict_is_the_worst_grade() -> None:
    assert verdict([]) == GREEN
    assert verdict([Finding(AMBER, "a", 1, ""), Finding(RED, "b", 1, ""), Finding(GREEN, "c", 1, "")]) == RED


def test_a_sample_of_many_rows_is_rendered_and_extrapolated(jsonl: WriteJsonl, base_model: Path) -> None:
    checkup = lint_files([jsonl(*(chat(f"Order {n}?") for n in range(50)))], LintOptions())
    renderer = Renderer.load(base_model)
    sampled = measure_lengths(checkup.files, checkup.columns, renderer, 64, most=10)
    whole = measure_lengths(checkup.files, checkup.columns, renderer, 64)
    assert (sampled.rendered, whole.rendered, sampled.rows) == (10, 50, 50)
    assert sampled == measure_lengths(checkup.files, checkup.columns, renderer, 64, most=10)
    assert abs(sampled.tokens_of_all - whole.tokens) < 0.1 * whole.tokens
    pairs = lint_files([jsonl(pair())], LintOptions())
    of_pair = measure_lengths(pairs.files, pairs.columns, renderer, 64)
    assert of_pair.tokens > of_pair.percentiles["p100"] > of_pair.loss_tokens


def test_a_row_is_read_again_where_it_stands(jsonl: WriteJsonl) -> None:
    path = jsonl("\ufeff" + json.dumps(chat("ä?")), "", chat("b?"))
    checkup = lint_files([path], LintOptions())
    order = random.Random(1).sample(range(2), 2)
    rows = list(read_rows(checkup.files, checkup.columns, np.array(order)))
    assert [row.line for row in rows] == [[1, 3][index] for index in order]


def test_the_speed_of_the_newest_run_on_the_base_is_taken(tmp_path: Path) -> None:
    def run(name: str, age_s: int, **facts: object) -> None:
        (tmp_path / name).mkdir()
        path = tmp_path / name / "training.json"
        path.write_text(json.dumps(facts), encoding="utf-8")
        os.utime(path, (10_000 - age_s, 10_000 - age_s))

    run("old", 9, base_model="b", input_tokens=100, steps_s=1.0, device="cpu")
    run("new", 5, base_model="b", input_tokens=300, steps_s=2.0, device="cpu")
    run("other", 1, base_model="c", input_tokens=900, steps_s=1.0)
    run("broken", 0, base_model="b")
    assert measured_speed(tmp_path, "b") == (150.0, "measured in new on cpu")
    assert measured_speed(tmp_path, None) == (900.0, "measured in other on unknown device, base c")
    assert measured_speed(tmp_path / "none", "b") is None
    spent = estimate(1_000, "rendered", 3, runs=tmp_path, base="b", usd_per_hour=3.6)
    assert (spent.tokens, spent.run_s) == (3_000, 20.0)
    assert spent.run_usd == pytest.approx((0.02, 0.02))
    assert spent.project_usd == pytest.approx((0.04, 0.06))
    assumed = estimate(ASSUMED_TOKENS_PER_S * 3600, "rendered", 1, runs=tmp_path, base="new", usd_per_hour=None)
    assert (assumed.speed_source, assumed.run_usd) == (ASSUMED_SPEED, (2.0, 4.0))


def test_a_base_without_a_run_is_judged_by_this_processor_and_no_gpu_is_assumed(base_model: Path) -> None:
    size = parameters_of(base_model)
    assert size == 1_721_664
    spent = estimate(1_000, "r", 1, runs=Path("none"), base="b", usd_per_hour=None, machine=Machine(parameters=size))
    assert "GFLOP/s just measured) with 1.72M parameters" in spent.speed_source
    assert (spent.usd_per_hour, spent.run_usd, spent.project_usd) == (None, None, None)
    larger = processor_speed(100 * size)
    assert larger.tokens_per_s < spent.tokens_per_s


@pytest.mark.parametrize(
    ("machine", "speed", "said"),
    [
        (Machine(tokens_per_s=7.0, hardware="h100"), 7.0, "as stated"),
        (Machine(hardware="rtx-4090"), ASSUMED_TOKENS_PER_S, "8B parameters on one RTX-4090"),
        (Machine(hardware="rtx-4090", parameters=4 * 10**9), 2 * ASSUMED_TOKENS_PER_S, "4B parameters on one RTX-4090"),
        (Machine(hardware="h100"), ASSUMED_TOKENS_PER_S * 989 / 165, "assumed: LoRA on an 8B model"),
        (Machine(), ASSUMED_TOKENS_PER_S, ASSUMED_SPEED),
    ],
)
def test_a_stated_speed_or_machine_is_estimated_by(machine: Machine, speed: float, said: str) -> None:
    spent = estimate(1_000, "r", 1, runs=Path("none"), base=None, usd_per_hour=2.0, machine=machine)
    assert spent.tokens_per_s == pytest.approx(speed)
    assert said in spent.speed_source


def test_too_few_rows_for_a_verdict_are_told_with_what_would_do(jsonl: WriteJsonl) -> None:
    rows = [chat(f"{n} w{n * 7} x{n * 13}?", "ab"[n % 2]) for n in range(130)]
    (one,) = (f for f in lint_files([jsonl(*rows)], LintOptions()).findings if f.name == "few_test_rows")
    assert (one.grade, one.count) == (GREEN, 13)
    assert "a verdict of turntable compare needs 50" in one.message
    assert "split with --test 0.39" in one.message
    test = jsonl(*(chat(f"t{n}?") for n in range(49)), name="test.jsonl")
    (two,) = (f for f in lint_files([jsonl(*rows), test], LintOptions()).findings if f.name == "few_test_rows")
    assert (two.grade, two.count) == (AMBER, 49)
    few = held_out_advice(6, 60)
    assert few is not None
    assert "collect 40 more rows and split with --test 0.5, or set a lower min_items" in few
    enough = jsonl(*(chat(f"t{n}?") for n in range(50)), name="test.jsonl")
    assert not [f for f in lint_files([jsonl(*rows), enough], LintOptions()).findings if f.name == "few_test_rows"]


def test_files_without_rows_are_problems_only(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    checkup: LintReport = lint_files([tmp_path / "empty.jsonl", tmp_path / "none.jsonl"], LintOptions())
    assert [one.name for one in checkup.findings] == ["problems"]
    assert [file.unreadable for file in checkup.files] == [True, True]
    assert checkup.estimate is None
