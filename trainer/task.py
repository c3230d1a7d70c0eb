"""The task file: which held-out rows to ask, and how to score what comes back."""

import json
from pathlib import Path
from typing import Annotated, Any

from jsonschema import Draft202012Validator, SchemaError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainer.errors import RecipeError
from trainer.toml_file import read_toml

RESERVED = ("schema_valid", "stopped")


class Task(BaseModel):
    """One frozen task; paths are relative to the file's folder.

    `data` is chat JSONL whose last assistant message is the expected answer, `json_schema` what every answer must
    satisfy, `fields` the top-level fields that must equal the expected ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1)]
    data: Annotated[str, Field(min_length=1)]
    json_schema: Annotated[str, Field(min_length=1)]
    fields: tuple[str, ...]
    max_tokens: Annotated[int, Field(gt=0)] = 256
    concurrency: Annotated[int, Field(gt=0, le=256)] = 8
    directory: Annotated[Path, Field(exclude=True, repr=False)]

    @field_validator("fields", mode="before")
    @classmethod
    def _field_names(cls, fields: object) -> tuple[str, ...]:
        if not isinstance(fields, list) or not all(isinstance(name, str) for name in fields):
            raise ValueError(f'is {fields!r}; write a list of names such as ["category"].')
        if reserved := set(RESERVED).intersection(fields):
            raise ValueError(f"holds {reserved.pop()!r}, the name of a rate that is always reported; rename the field.")
        return tuple(fields)

    @property
    def data_path(self) -> Path:
        """Where the held-out rows are."""
        return self.directory / self.data


def read_task(path: Path) -> Task:
    """Read and check a task file; raises `RecipeError`."""
    return read_toml(path, Task)


def read_schema(task: Task) -> Draft202012Validator:
    """The validator for a task's schema; raises `RecipeError` when the schema or a scored field is not in order."""
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
