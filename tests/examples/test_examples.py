"""Every example is complete and valid: its files parse, its data is clean and reproducible, its task is frozen and its
advice is what its README says."""

import json
import re
import runpy
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.trainer import commands
from tests.trainer.commands import run
from trainer.data.lint import LintOptions, lint_files
from trainer.eval.examples import EvalExample, match_answer, read_eval_set
from trainer.eval.freeze import frozen_at, identity
from trainer.eval.metrics import load_function
from trainer.eval.task import read_schema, read_task
from trainer.training.recipe import read_recipe

EXAMPLES = ROOT / "examples"
NAMES = [
    "classification",
    "extraction",
    "feedback-rounds",
    "preference",
    "prompt",
    "retrieve",
    "support-triage",
    "voice",
]
EXAMPLE = pytest.mark.parametrize("name", NAMES)
GENERATED = pytest.mark.parametrize("name", [name for name in NAMES if (EXAMPLES / name / "generate.py").is_file()])
# More rows would be better, and take longer to train than a try-out should; the READMEs say so.
SMALL = {"classification", "support-triage"}


def items_of(name: str) -> tuple[EvalExample, ...]:
    return tuple(read_eval_set(read_task(EXAMPLES / name / "task.toml")).items)


def test_every_folder_with_a_task_is_listed_here_and_on_the_page_of_examples() -> None:
    found = sorted(path.parent.name for path in EXAMPLES.glob("*/task.toml"))
    assert found == NAMES
    page = (ROOT / "docs" / "how-to" / "examples.md").read_text()
    assert [name for name in NAMES if f"examples/{name}/README.md" not in page] == []


@EXAMPLE
def test_recipe_and_task_are_valid_and_belong_together(name: str) -> None:
    folder = EXAMPLES / name
    recipe, task = read_recipe(folder / "recipe.toml"), read_task(folder / "task.toml")
    read_schema(task)
    assert recipe.name == task.name == name
    assert all(path.is_file() for path in recipe.train_paths)
    assert len(items_of(name)) >= task.gate.min_items, "fewer items never give a verdict"
    when, changed = frozen_at(folder / "task.toml", identity(task))
    assert when is not None, "never frozen"
    assert changed == (), "changed since it was frozen: `turntable compare freeze` it and measure again"


@EXAMPLE
def test_the_check_of_the_data_is_green(name: str) -> None:
    folder = EXAMPLES / name
    train = read_recipe(folder / "recipe.toml").train_paths
    report = lint_files([*train, folder / "test.jsonl"], LintOptions())
    bad = {finding.name: finding.message for finding in report.findings if finding.grade != "green"}
    assert bad.keys() == ({"size"} if name in SMALL else set()), bad
    alone = lint_files(list(train), LintOptions())
    assert {finding.name for finding in alone.findings if finding.grade != "green"} <= {"size"}


@EXAMPLE
def test_the_expected_answers_are_right_by_the_tasks_own_measures(name: str) -> None:
    task = read_task(EXAMPLES / name / "task.toml")
    validator, function = read_schema(task), load_function(task)
    for item in items_of(name):
        match = match_answer(item.expected, item.expected, validator, task.fields)
        assert all(match.fields.values())
        assert match.schema_valid or validator is None
        assert function is None or function(item.expected, item.expected, item.row)


@GENERATED
def test_the_generator_writes_the_files_that_are_here(name: str, tmp_path: Path) -> None:
    for source in ("generate.py", "topics.txt"):
        if (EXAMPLES / name / source).is_file():
            shutil.copy(EXAMPLES / name / source, tmp_path)
    runpy.run_path(str(tmp_path / "generate.py"), run_name="__main__")
    written = sorted(tmp_path.glob("*.jsonl"))
    assert len(written) >= 2
    for path in written:
        assert path.read_bytes() == (EXAMPLES / name / path.name).read_bytes(), path.name


@EXAMPLE
def test_advice_is_what_the_readme_says(name: str, tmp_path: Path) -> None:
    readme = (EXAMPLES / name / "README.md").read_text()
    said = re.search(r"Advice: \*\*([A-Z_-]+)\*\* \(rule `(\w+)`\)", readme)
    assert said, "the README names no advice"
    result = run(commands.advise, EXAMPLES / name / "case.toml", "--data-dir", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    decided: dict[str, Any] = json.loads(result.stdout)["decided"]
    assert (decided["answer"].replace("_", "-"), decided["rule"]) == said.groups()


@pytest.mark.parametrize("name", ["prompt", "retrieve"])
def test_training_against_the_advice_is_refused_without_a_reason(name: str, tmp_path: Path) -> None:
    assert run(commands.advise, EXAMPLES / name / "case.toml", "--data-dir", tmp_path).exit_code == 0
    refused = run(commands.train, EXAMPLES / name / "recipe.toml", "--data-dir", tmp_path)
    assert refused.exit_code == 2
    assert f"the advice for {name} is {name.upper()}" in " ".join(refused.output.split())
    assert not (tmp_path / "runs").exists()


@EXAMPLE
def test_the_readme_says_what_to_run_and_what_came_out(name: str) -> None:
    lines = (EXAMPLES / name / "README.md").read_text().splitlines()
    assert 15 <= len(lines) <= 60
    text = "\n".join(lines)
    assert f"turntable data check examples/{name}/" in text
    assert f"examples/{name}/task.toml" in text


def test_the_voice_classifier_tells_voice_and_service_desk_apart_on_topics_it_never_saw() -> None:
    style = runpy.run_path(str(EXAMPLES / "voice" / "style.py"))
    generate = runpy.run_path(str(EXAMPLES / "voice" / "generate.py"))
    _, topics = generate["read_topics"]()
    plain = [f"Thank you for your question. {topic.facts} I hope this helps." for topic in topics]
    assert not any(style["on_brand"](answer, "", {}) for answer in plain)
    voiced = [item.expected for item in items_of("voice")]
    assert all(style["on_brand"](answer, "", {}) for answer in voiced)
    assert not style["on_brand"]("", "", {})


def test_the_timetable_of_retrieve_has_changed_since_the_training_rows() -> None:
    folder = EXAMPLES / "retrieve"
    documents = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
    texts = {document["id"]: document["text"] for document in documents}
    for item in items_of("retrieve"):
        (wanted,) = item.row["document_ids"]
        assert item.expected.removesuffix(" euros") in texts[wanted]
    trained = [json.loads(line)["messages"] for line in (folder / "train.jsonl").read_text().splitlines()]
    outdated = [turns for turns in trained if not any(turns[-1]["content"] in text for text in texts.values())]
    assert len(outdated) > len(trained) / 2


def test_a_pair_of_preference_prefers_the_answer_that_comes_to_the_point() -> None:
    direct = runpy.run_path(str(EXAMPLES / "preference" / "direct.py"))["is_direct"]
    for line in (EXAMPLES / "preference" / "pairs.jsonl").read_text().splitlines():
        pair = json.loads(line)
        assert direct(pair["preferred_output"][0]["content"], "", {})
        assert not direct(pair["non_preferred_output"][0]["content"], "", {})


def test_a_second_round_begins_from_the_version_that_the_first_one_publishes() -> None:
    folder = EXAMPLES / "feedback-rounds"
    first, second = (tomllib.loads((folder / name).read_text()) for name in ("recipe.toml", "round2.toml"))
    assert second["lora"].pop("init") == f"{first['name']}@v1"
    assert (second["name"], second["method"], second["lora"]) == (first["name"], "dpo", first["lora"])
    complete = runpy.run_path(str(folder / "complete.py"))["is_complete"]
    for line in (folder / second["train"]).read_text().splitlines():
        pair = json.loads(line)
        assert complete(pair["preferred_output"][0]["content"], "", {})
        assert not complete(pair["non_preferred_output"][0]["content"], "", {})
    assert run(commands.data, "check", folder / second["train"], folder / "test.jsonl").exit_code == 0


def test_classes_of_the_classification_have_enough_rows_for_the_advice() -> None:
    case = tomllib.loads((EXAMPLES / "classification" / "case.toml").read_text())
    assert case["kind"] == "classification"
    labels = {item.expected for item in items_of("classification")}
    assert len(labels) == 12
