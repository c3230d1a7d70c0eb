import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.trainer.conftest import WriteJsonl, chat
from trainer.errors import DataError, RecipeError
from trainer.eval.freeze import freeze, frozen_at, frozen_commitment, identity
from trainer.eval.task import Task, read_schema, read_task
from trainer.training.recipe import read_recipe

TASK = 'name = "t"\ndata = "test.jsonl"\njson_schema = "schema.json"\nfields = ["category"]\n'


def task(tmp_path: Path, text: str = TASK) -> Task:
    path = tmp_path / "task.toml"
    path.write_text(text, encoding="utf-8")
    return read_task(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TASK.replace('["category"]', '"category"'), "fields is 'category'; write a list of names"),
        (TASK.replace('["category"]', '["stopped"]'), "fields holds 'stopped', the name of a metric"),
        (TASK + "concurrency = 0\n", "concurrency is 0"),
        (TASK + "temperature = 1\n", "temperature is not a field; a file of this kind takes name, data, train"),
        (TASK + 'metrics = ["rouge3"]\n', "metrics holds 'rouge3'; choose from exact_match"),
        (TASK + "shots = 3\n", "shots asks for examples but train names no file"),
        (TASK + "shots = 17\n", "shots is 17"),
        (TASK + 'label = "priority"\n', "label is 'priority', which is not among fields"),
        (TASK + 'arms = ["tuned"]\n', "arms holds 'tuned'; arms are base, prompted"),
        (TASK + '[gate]\nmetric = "bleu"\n', "gate.metric is 'bleu'; measured are correct, category"),
        (TASK + 'metric_function = "mine"\n', "metric_function is 'mine'; write module:function"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        task(tmp_path, text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, "schema.json cannot be read (No such file or directory)"),
        ("{", "schema.json is not JSON"),
        ('{"type": "objet"}', "schema.json is not a JSON Schema"),
        ('{"properties": {"priority": {}}}', "fields names category, which"),
    ],
)
def test_a_schema_that_cannot_be_used_is_named(tmp_path: Path, schema: str | None, said: str) -> None:
    if schema is not None:
        (tmp_path / "schema.json").write_text(schema, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_schema(task(tmp_path))
    assert said in str(caught.value)


def test_a_good_schema_validates(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps({"properties": {"category": {"const": "x"}}}), encoding="utf-8")
    validator = read_schema(task(tmp_path))
    assert validator is not None
    assert validator.is_valid({"category": "x"})
    assert not validator.is_valid({"category": "y"})


def test_the_examples_task_is_short_and_as_it_was_frozen() -> None:
    path = ROOT / "examples" / "support-triage" / "task.toml"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30
    when, changed = frozen_at(path, identity(read_task(path)))
    assert (when is not None, changed) == (True, ()), "run `turntable compare freeze` on it"


def test_a_run_commits_itself_to_a_frozen_task_that_it_does_not_train_on(jsonl: WriteJsonl, tmp_path: Path) -> None:
    held_out, seen = chat("Where is my invoice?", "In the post."), chat("Is the shop open?", "Yes.")
    jsonl(held_out, name="test.jsonl")
    jsonl(seen, held_out, name="train.jsonl")
    (tmp_path / "recipe.toml").write_text('name = "x"\ntrain = "train.jsonl"\n', encoding="utf-8")
    recipe, path = read_recipe(tmp_path / "recipe.toml"), tmp_path / "task.toml"
    path.write_text('name = "t"\ndata = "test.jsonl"\n', encoding="utf-8")
    with pytest.raises(RecipeError, match="is not frozen; run `turntable compare freeze"):
        frozen_commitment(path, recipe)
    _, frozen = freeze(path, read_task(path))
    with pytest.raises(
        DataError, match=r"test.jsonl:1: has the same messages as .*train.jsonl:2, which is train/test leakage"
    ):
        frozen_commitment(path, recipe)
    jsonl(seen, name="train.jsonl")
    assert frozen_commitment(path, recipe)["sha256"] == frozen.sha256
    path.write_text('name = "t"\ndata = "test.jsonl"\nmax_tokens = 9\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"has changed since it was frozen \(max_tokens\)"):
        frozen_commitment(path, recipe)
