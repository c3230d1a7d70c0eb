"""Read and validate a task: test examples, arms, metrics and the rules of the promotion gate, in a TOML file.

The fields decide the arms: `prompt` or `shots` add a prompted base, `json_schema` a constrained base, `[retrieval]` two
arms with documents, `[frontier]` and `recorded` one each. `arms` restricts them.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Self

from jsonschema import Draft202012Validator, SchemaError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trainer.data.findings import VERDICT_ITEMS
from trainer.errors import RecipeError
from trainer.eval.report import ArmKind
from trainer.files import read_toml

CORRECT, EXACT_MATCH, FIELD_ACCURACY, SCHEMA_VALID, EOS_RATE = (
    *("correct", "exact_match", "field_accuracy", "schema_valid", "stopped"),
)
F1_MACRO, BLEU, JUDGE, LENGTH = "f1_macro", "bleu", "judge", "length"
ROUGES = ("rouge1", "rouge2", "rougeL")
ON_REQUEST = (EXACT_MATCH, F1_MACRO, *ROUGES, BLEU)
RESERVED = (CORRECT, EXACT_MATCH, FIELD_ACCURACY, SCHEMA_VALID, EOS_RATE, F1_MACRO, BLEU, JUDGE, LENGTH, *ROUGES)
MAX_SHOTS = 16
_FUNCTION = re.compile(r"^[\w.]+:\w+$")


def _names(given: object) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) and name for name in given):
        raise ValueError(f'is {given!r}; write a list of names such as ["category"].')
    if twice := next((name for name in given if given.count(name) > 1), None):
        raise ValueError(f"holds {twice!r} twice; leave one out.")
    return tuple(given)


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]


class _TaskSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GateRules(_TaskSection):
    """The requirements for the candidate; shares of 1, forgetting in nats per token."""

    metric: str = Field(CORRECT, description="The metric that decides.")
    arm: str = Field(ArmKind.ADAPTER, description="The kind of arm to decide about.")
    against: Names = Field(
        (ArmKind.BASE, ArmKind.PROMPTED), description="Kinds of arms; the adapter must beat the best of them."
    )
    least_gain: Share = Field(0.05, description="The minimum gain over the best of `against`.")
    slice_fall: Share = Field(0.02, description="The maximum drop of any slice.")
    stop_fall: Share = Field(0.01, description="The maximum drop of the EOS rate.")
    forgetting: float = Field(0.05, ge=0, description="The maximum rise of cross-entropy on general text.")
    min_items: int = Field(VERDICT_ITEMS, gt=0, description="Fewer items than this never give PROMOTE.")


class RetrievalTable(_TaskSection):
    """Documents, searched by BM25 and put before the question."""

    documents: Name = Field(description="A folder of .txt and .md files, or JSONL with `id` and `text`.")
    k: int = Field(3, gt=0, le=50, description="How many passages go into the prompt.")
    gold: str = Field("document_ids", description="The field of a row that lists the ids it needs, for recall@k.")


class EndpointTable(_TaskSection):
    """A model behind an OpenAI-compatible endpoint; without `base_url` it is the gateway's own."""

    model: Name = Field(description="The model to ask.")
    base_url: str | None = Field(None, description="Its address up to /v1; the gateway when left out.")
    key_env: str = Field("OPENAI_API_KEY", description="The environment variable that holds its key.")
    timeout_s: float = Field(120.0, gt=0, description="The timeout of one answer, in seconds.")
    omit: Names = Field((), description="Fields that the endpoint rejects, such as temperature.")
    request: dict[str, Any] = Field({}, description="Fields to add to each request.")


class FrontierTable(EndpointTable):
    """The endpoint to compare with, and its prices; without them its cost is unknown, not 0."""

    usd_per_million_prompt: float | None = Field(None, ge=0, description="USD per million prompt tokens.")
    usd_per_million_completion: float | None = Field(None, ge=0, description="USD per million generated tokens.")


class JudgeTable(EndpointTable):
    """A model that judges which of two answers is better."""

    rubric: Name = Field(description="The criteria of a better answer, in words.")


class Task(_TaskSection):
    """One task; paths are relative to the file's folder."""

    name: Name = Field(description="The task's name.")
    data: Name = Field(description="Held-out chat JSONL; the last assistant message is the expected answer.")
    train: str | None = Field(None, description="Training rows: the pool of few-shot examples; not allowed in `data`.")
    json_schema: str | None = Field(None, description="The JSON Schema that every answer must satisfy.")
    fields: Names = Field((), description="Top-level fields that must equal the expected ones.")
    label: str = Field("", description="The field whose classes F1 is taken over; the first of `fields`, or all.")
    metrics: Names = Field((), description=f"Also measured: {', '.join(ON_REQUEST)}.")
    metric_function: str | None = Field(None, description="A custom metric, `module:function`.")
    slices: Names = Field((), description="Fields of a row, or of its expected answer, to report by.")
    prompt: str | None = Field(None, description="The system prompt of the prompted arms; the row's when left out.")
    shots: int = Field(0, ge=0, le=MAX_SHOTS, description="Few-shot examples from `train` in the prompted arms.")
    shot_choice: str = Field("diverse", pattern="^(diverse|nearest)$", description="`diverse` or `nearest` examples.")
    arms: Names = Field((), description="Kinds of arms to compare; all that the task allows when left out.")
    adapters: Names = Field((), description="Adapters by name or ref; --adapter overrides.")
    recorded: str | None = Field(None, description="JSONL of recorded answers: `line`, `text`.")
    general_text: str | None = Field(None, description="General text for forgetting; `builtin` for ours.")
    max_tokens: int = Field(256, gt=0, description="The maximum tokens of an answer.")
    concurrency: int = Field(32, gt=0, le=256, description="Concurrent requests over all arms.")
    seed: int = Field(0, ge=0, description="Of the bootstrap.")
    retrieval: RetrievalTable | None = None
    frontier: FrontierTable | None = None
    judge: JudgeTable | None = None
    gate: GateRules = GateRules()
    directory: Annotated[Path, Field(exclude=True, repr=False)]

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for complaint in _complaints(self):
            raise ValueError(complaint)
        return self

    @property
    def data_path(self) -> Path:
        """The path of the test examples."""
        return self.directory / self.data

    @property
    def train_path(self) -> Path | None:
        """The path of the training rows."""
        return self.directory / self.train if self.train else None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Every metric that has one number per arm."""
        own = (self.metric_function.partition(":")[2],) if self.metric_function else ()
        fields = (*self.fields, FIELD_ACCURACY) if self.fields else ()
        schema = (SCHEMA_VALID,) if self.json_schema else ()
        judge = (JUDGE,) if self.judge else ()
        return (CORRECT, *fields, *schema, *self.metrics, *own, *judge, EOS_RATE, LENGTH)


def read_task(path: Path) -> Task:
    """Read and validate a task; raises `RecipeError`."""
    task = read_toml(path, Task)
    if task.gate.metric not in task.metric_names:
        raise RecipeError(f"{path}: gate.metric is {task.gate.metric!r}; measured are {', '.join(task.metric_names)}.")
    return task


def _complaints(task: Task) -> "list[str]":
    found = []
    if reserved := [name for name in task.fields if name in RESERVED]:
        found.append(f"fields holds {reserved[0]!r}, the name of a metric; rename the field.")
    if unknown := [name for name in task.metrics if name not in ON_REQUEST]:
        found.append(f"metrics holds {unknown[0]!r}; choose from {', '.join(ON_REQUEST)}.")
    if task.label and task.fields and task.label not in task.fields:
        found.append(f"label is {task.label!r}, which is not among fields; add it there.")
    if task.shots and not task.train:
        found.append("shots asks for examples but train names no file to take them from; set train.")
    kinds = {"arms": task.arms, "gate.against": task.gate.against, "gate.arm": (task.gate.arm,)}
    for field, names in kinds.items():
        if wrong := [name for name in names if name not in list(ArmKind)]:
            found.append(f"{field} holds {wrong[0]!r}; arms are {', '.join(ArmKind)}.")
    if task.metric_function and not _FUNCTION.match(task.metric_function):
        found.append(f"metric_function is {task.metric_function!r}; write module:function.")
    return found


def read_schema(task: Task) -> Draft202012Validator | None:
    """Return the validator for a task's answers; raises `RecipeError` for an invalid schema or unknown field."""
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
