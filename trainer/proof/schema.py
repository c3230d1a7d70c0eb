"""The task's JSON Schema, checked, with the validator for answers."""

import json
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from trainer.errors import RecipeError
from trainer.proof.task import Task


def read_schema(task: Task) -> Draft202012Validator | None:
    """The validator for a task's answers; raises `RecipeError` when the schema or a scored field is not in order."""
    if task.json_schema is None:
        return None
    path = task.directory / task.json_schema
    try:
        schema: Any = json.loads(path.read_bytes())
        Draft202012Validator.check_schema(schema)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror}); fix json_schema in the task.") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON: {error}.") from error
    except SchemaError as error:
        raise RecipeError(f"{path} is not a JSON Schema: {error.message}.") from error
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    if unknown := [field for field in task.fields if properties and field not in properties]:
        known = ", ".join(properties)
        raise RecipeError(f"fields names {unknown[0]}, which {path} does not describe; it has {known}.")
    return Draft202012Validator(schema)
