import json
from pathlib import Path

import pytest

from trainer.errors import RecipeError
from trainer.task import Task, read_schema, read_task

TASK = 'name = "t"\ndata = "test.jsonl"\njson_schema = "schema.json"\nfields = ["category"]\n'


def task(tmp_path: Path, text: str = TASK) -> Task:
    path = tmp_path / "task.toml"
    path.write_text(text, encoding="utf-8")
    return read_task(path)


def test_paths_are_relative_to_the_task(tmp_path: Path) -> None:
    assert task(tmp_path).data_path == tmp_path / "test.jsonl"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TASK.replace('["category"]', '"category"'), "fields is 'category'; write a list of names"),
        (TASK.replace('["category"]', '["stopped"]'), "the name of a rate that is always reported"),
        (TASK + "concurrency = 0\n", "concurrency is 0"),
        (TASK + "temperature = 1\n", "temperature is not a field; a file of this kind takes name, data, json_schema"),
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
    assert validator.is_valid({"category": "x"})
    assert not validator.is_valid({"category": "y"})
