"""Comparing over real HTTP with the real OpenAI SDK; the other side is a small server with scripted models."""

import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.trainer.conftest import WriteJsonl, chat
from tests.trainer.eval.conftest import SUBJECTS, WriteTask, questions, run
from tests.trainer.scripted_gateway import RIGHT, SAID
from trainer.errors import DataError, EvaluationError, RecipeError
from trainer.eval.answers import Answer, read_answers
from trainer.eval.comparison import ComparisonOutcome
from trainer.eval.freeze import freeze
from trainer.eval.report import ComparisonReport
from trainer.eval.task import read_task
from trainer.eval.terminal import print_report

PLANTED = (
    'recorded = "recorded.jsonl"\narms = ["recorded", "adapter"]\nslices = ["topic"]\n[gate]\nagainst = ["recorded"]\n'
)
PLAIN = 'name = "t"\ndata = "test.jsonl"\nmax_tokens = 32\n'


def topical(count: int) -> list[dict[str, Any]]:
    return [row | {"topic": SUBJECTS[n % 8]} for n, row in enumerate(questions(count))]


def recorded(folder: Path, right_topic: str, count: int) -> None:
    """Answers given elsewhere: right on one topic, wrong on all others."""
    lines = [{"line": n + 1, "text": RIGHT if SUBJECTS[n % 8] == right_topic else SAID["wrong"]} for n in range(count)]
    (folder / "recorded.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def values(outcome: ComparisonOutcome, metric: str) -> dict[str, float]:
    return {arm.name: arm.metrics[metric].value for arm in outcome.report.arms}


def test_models_alone_are_asked_every_row_and_get_no_verdict(
    write_task: WriteTask, gateway_url: str, tmp_path: Path
) -> None:
    outcome = run(write_task(), gateway_url, models=("good", "chatty", "wrong"))
    assert values(outcome, "schema_valid") == {"good": 1.0, "chatty": 0.0, "wrong": 1.0}
    assert values(outcome, "category") == {"good": 1.0, "chatty": 0.0, "wrong": 0.0}
    report = outcome.report
    assert (report.complete, report.gate.verdict) == (True, None)
    assert (report.arms[0].tokens.prompt, report.arms[0].tokens.completion) == (33, 21)
    assert report.arms[0].cost_nano_usd.per_request is None, "a missing price is no price of 0"
    asked = {(answer.arm, answer.line) for answer in read_answers(tmp_path / "answers.jsonl")}
    assert asked == {(arm, line) for arm in ("good", "chatty", "wrong") for line in (1, 2, 3)}
    report.save(tmp_path / "report.json")
    assert ComparisonReport.read(tmp_path / "report.json") == report


def test_a_regression_in_one_slice_is_caught_though_the_whole_gains(
    write_task: WriteTask, gateway_url: str, tmp_path: Path
) -> None:
    task = write_task(PLANTED, topical(80))
    recorded(tmp_path, "parcel", 80)
    gate = run(task, gateway_url, "hasty").report.gate
    assert gate.verdict == "DO_NOT_DEPLOY"
    assert [check.name for check in gate.checks if not check.passed] == ["slice topic=parcel"]
    assert "fell by 100 points in the slice topic=parcel" in gate.summary
    outcome = run(task, gateway_url, "good")
    assert outcome.report.gate.verdict == "PROMOTE"
    assert len(outcome.report.examples.won) == 10
    assert not outcome.report.examples.lost
    (gain,) = [d for d in outcome.report.differences if d.metric == "correct" and d.against == "recorded"][:1]
    assert gain.value == pytest.approx(70 / 80)
    assert gain.interval_95[0] > 0.7


def test_an_adapter_that_never_answers_a_class_is_stopped_without_any_slice_being_named(
    write_task: WriteTask, gateway_url: str, tmp_path: Path
) -> None:
    kinds = ("praise", "question", "complaint")
    rows = [chat(f"{kinds[n % 3]} {SUBJECTS[n % 8]} number{n} word{n * 7}", kinds[n % 3]) for n in range(60)]
    (tmp_path / "recorded.jsonl").write_text(
        "".join(f'{{"line": {n + 1}, "text": "{"complaint" if n % 9 == 2 else "nothing"}"}}\n' for n in range(60))
    )
    text = 'arms = ["recorded", "adapter"]\nrecorded = "recorded.jsonl"\n[gate]\nagainst = ["recorded"]\n'
    outcome = run(
        write_task(text, rows, base='name = "t"\ndata = "test.jsonl"\nmax_tokens = 32\n'), gateway_url, "praise"
    )
    gate = outcome.report.gate
    assert gate.verdict == "DO_NOT_DEPLOY"
    assert [check.name for check in gate.checks if not check.passed] == ["class complaint"]
    assert "The adapter praise never answers complaint, which 20 items want." in gate.summary
    assert values(outcome, "f1:complaint") == {"recorded": pytest.approx(14 / 27), "praise": 0.0}


def test_answers_that_do_not_repeat_are_no_classes(write_task: WriteTask, gateway_url: str) -> None:
    rows = [chat(f"question {n}", f"answer {n}") for n in range(60)]
    task = write_task("", rows, base=PLAIN)
    outcome = run(task, gateway_url, models=("good",))
    assert not [name for name in outcome.report.arms[0].metrics if name.startswith("f1:")]


def test_the_basis_of_a_cost_is_told_with_the_figures(write_task: WriteTask, gateway_url: str) -> None:
    report = run(write_task(), gateway_url, models=("priced", "good")).report
    assert [arm.settings.get("cost_basis") for arm in report.arms] == [{"calibrated": 3}, None]
    told = Console(record=True, width=200, file=io.StringIO())
    print_report(report, told)
    text = told.export_text()
    assert (
        f"Costs as of {report.created_at[:10]} (calibrated: weights that `turntable costs calibrate` measured)" in text
    )
    assert "hold only costs of one basis against each other" in text


def test_a_set_that_is_too_small_never_promotes(write_task: WriteTask, gateway_url: str, tmp_path: Path) -> None:
    task = write_task(PLANTED, topical(16))
    recorded(tmp_path, "", 16)
    gate = run(task, gateway_url, "good").report.gate
    assert gate.verdict == "NOT_ENOUGH_ITEMS"
    assert "16 items were asked, fewer than the 50 that a verdict takes; add 34." in gate.summary


def test_a_leak_is_caught_before_anything_is_asked(
    write_task: WriteTask, jsonl: WriteJsonl, unused_tcp_port: int, tmp_path: Path
) -> None:
    rows = questions(3)
    near = chat(str(rows[1]["messages"][0]["content"]).upper() + "!", RIGHT)  # type: ignore[index]
    jsonl(chat("something else entirely", RIGHT), near, rows[2], name="train.jsonl")
    task = write_task('train = "train.jsonl"\nshots = 1\n', rows)
    with pytest.raises(DataError) as caught:
        run(task, f"http://127.0.0.1:{unused_tcp_port}", "good")
    assert [problem.line for problem in caught.value.problems] == [2, 3]
    assert "train.jsonl:2, which is train/test leakage" in str(caught.value)
    assert "has the same messages as" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "text", "said"),
    [
        ([chat("a question", '{"priority": 1}')], "", "test.jsonl:1: expects an answer without category"),
        ([chat("a question", "billing")], "", "test.jsonl:1: expects an answer that is no JSON"),
        (questions(2), 'slices = ["region"]\n', "test.jsonl:1: has no region, neither in the row nor in its answer"),
    ],
)
def test_rows_that_cannot_be_measured_are_named(
    write_task: WriteTask, unused_tcp_port: int, rows: list[dict[str, Any]], text: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        run(write_task(text, rows), f"http://127.0.0.1:{unused_tcp_port}", "good")
    assert said in str(caught.value)


def test_an_arm_that_fails_half_way_is_resumed_and_nothing_is_asked_twice(
    write_task: WriteTask, gateway_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = write_task(rows=[*questions(2), chat("a hard one", RIGHT)])
    outcome = run(task, gateway_url, models=("flaky", "good"))
    assert [(p.line, p.message) for p in outcome.problems] == [(3, "flaky gave no answer: Error code: 400 - too hard")]
    assert outcome.report.arms[0].failed == (3,)
    assert outcome.report.arms[0].metrics["category"].of == 2, "no item is counted as wrong that was not answered"
    assert not outcome.report.complete
    assert "1 results are missing" in outcome.report.gate.summary or outcome.report.gate.verdict is None

    answers = tmp_path / "answers.jsonl"
    with answers.open("a", encoding="utf-8") as file:
        file.write('{"arm": "good", "line": 1, "te')  # killed while writing
    asked = list[tuple[str, int]]()

    async def answering(client: object, arm: str, line: int, *rest: object) -> Answer:
        asked.append((arm, line))
        return Answer(arm, line, RIGHT, "stop")

    monkeypatch.setattr("trainer.eval.runner.complete", answering)
    resumed = run(task, gateway_url, models=("flaky", "good"), resume=True)
    assert asked == [("flaky", 3)]
    assert resumed.report.complete
    assert resumed.report.arms[0].metrics["category"].of == 3
    with pytest.raises(EvaluationError, match=r"belongs to another comparison \(arms differs\)"):
        run(task, gateway_url, models=("good",), resume=True)


def test_a_task_that_changed_since_it_was_frozen_says_so(
    write_task: WriteTask, gateway_url: str, tmp_path: Path
) -> None:
    task = write_task(PLANTED, topical(56))
    recorded(tmp_path, "", 56)
    freeze(task, read_task(task))
    unchanged = run(task, gateway_url, "good").report
    assert (unchanged.task.changed, unchanged.gate.verdict) == ((), "PROMOTE")
    assert unchanged.task.frozen_at is not None
    recorded(tmp_path, "parcel", 56)
    changed = run(task, gateway_url, "good").report
    assert changed.task.changed == ("file recorded.jsonl",)
    assert changed.task.sha256 != unchanged.task.sha256
    assert changed.gate.verdict == "DO_NOT_DEPLOY"
    assert "changed since it was frozen (file recorded.jsonl)" in changed.gate.summary


def test_prompt_shots_and_passages_stand_before_the_question(
    write_task: WriteTask, jsonl: WriteJsonl, gateway_url: str, tmp_path: Path
) -> None:
    jsonl(chat("my voucher is void", RIGHT), chat("a courier came", SAID["wrong"]), name="train.jsonl")
    (tmp_path / "documents.jsonl").write_text(
        '{"id": "d1", "text": "An invoice comes by mail."}\n{"id": "d2", "text": "A parcel takes two days."}\n'
    )
    text = 'train = "train.jsonl"\nshots = 2\nprompt = "Sort this."\nadapters = ["echo"]\n'
    text += '[retrieval]\ndocuments = "documents.jsonl"\nk = 1\n'
    rows = [row | {"document_ids": ["d1"]} for row in questions(2)]
    task = write_task(text, rows)
    report = run(task, gateway_url).report
    assert [arm.name for arm in report.arms] == [
        *("base", "prompted", "constrained", "retrieval", "echo", "echo+retrieval"),
    ]
    assert report.arm("retrieval").settings["recall_at_1"] == 0.5, "the parcel is found for an invoice's question"
    said = {a.line: json.loads(a.text) for a in read_answers(tmp_path / "answers.jsonl") if a.arm == "echo+retrieval"}
    assert said[2][0]["content"].endswith("[d2] A parcel takes two days.")

    from trainer.eval.arms import ArmPlan, Prompts
    from trainer.eval.examples import read_eval_set
    from trainer.eval.report import ArmKind

    read = read_task(task)
    items = read_eval_set(read)
    messages = Prompts(read, items).messages(ArmPlan("p", ArmKind.PROMPTED, "base"), items.items[0])
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[0]["content"] == "Sort this."
    assert {messages[1]["content"], messages[3]["content"]} == {"my voucher is void", "a courier came"}


@pytest.mark.parametrize(
    ("model", "share", "agreement", "nonsense"),
    [("judge", 1.0, 1.0, 0), ("first", 0.5, 0.0, 0), ("babble", None, None, 6)],
)
def test_a_judge_is_asked_with_both_sides_first_and_never_guessed(
    write_task: WriteTask, gateway_url: str, model: str, share: float | None, agreement: float | None, nonsense: int
) -> None:
    text = 'arms = ["base", "adapter"]\nadapters = ["wrong"]\n[judge]\nrubric = "The right category."\n'
    text += f'model = "{model}"\n[gate]\nmetric = "judge"\n'
    report = run(write_task(text), gateway_url).report
    facts, judged = report.arm("wrong").settings["judge"], report.arm("wrong").metrics["judge"]
    assert (facts["agreement"], facts["nonsense"]) == (agreement, nonsense)
    if share is None:
        assert (judged.of, report.complete, report.gate.verdict) == (0, False, None)
    else:
        assert judged.of == 3
        assert judged.value == pytest.approx(1 - share if model == "judge" else share)
        assert report.complete


def test_a_judge_that_never_answers_is_counted_and_leaves_no_verdict(
    write_task: WriteTask, gateway_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "k")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        text = 'arms = ["base", "adapter"]\nadapters = ["wrong"]\n[gate]\nmetric = "judge"\n[judge]\nmodel = "j"\n'
        text += f'rubric = "r"\nkey_env = "JUDGE_KEY"\nbase_url = "http://127.0.0.1:{silent.getsockname()[1]}/v1"\n'
        outcome = run(write_task(f"{text}timeout_s = 0.1\n", questions(1)), gateway_url)
    assert outcome.report.arm("wrong").settings["judge"]["no_answer"] == 2
    assert (outcome.report.complete, outcome.report.gate.verdict) == (False, None)
    assert "the judge gave no usable answer on wrong" in str(outcome.problems[0])


def test_a_metric_function_that_raises_is_named_with_its_row_and_ends_the_verdict(
    write_task: WriteTask, gateway_url: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def halved(answer, expected, row):\n    return 0.5 * (answer == expected)\n\n"
        "def broken(answer, expected, row):\n    return {}['x'] if 'number1' in str(row) else 'much'\n"
    )
    task = write_task('arms = ["base"]\nmetric_function = "mine:halved"\n')
    assert values(run(task, gateway_url), "halved") == {"base": 0.5}
    task = write_task('arms = ["base"]\nmetric_function = "mine:broken"\n')
    outcome = run(task, gateway_url)
    assert not outcome.report.complete
    assert outcome.problems[1].line == 2
    assert "mine:broken raised KeyError: 'x' (mine.py:5) on base" in str(outcome.problems[1])
    assert "returned 'much', which is not a finite number" in str(outcome.problems[0])
    with pytest.raises(RecipeError, match="mine has no function absent"):
        run(write_task('metric_function = "mine:absent"\n'), gateway_url)


def test_what_would_fail_for_every_item_ends_the_comparison(
    write_task: WriteTask, gateway_url: str, unused_tcp_port: int
) -> None:
    task = write_task()
    with pytest.raises(EvaluationError, match="the gateway refuses model nobody: Error code: 404 - no model nobody"):
        run(task, gateway_url, models=("nobody",))
    with pytest.raises(EvaluationError, match="refuses the key"):
        run(task, gateway_url, models=("good",), key="tt-wrong")
    with pytest.raises(EvaluationError, match="start one with `turntable serve`"):
        run(task, f"http://127.0.0.1:{unused_tcp_port}", models=("good",))
