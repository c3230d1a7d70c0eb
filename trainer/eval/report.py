"""The report of a comparison, report.json: task, arms, metrics, differences, and the verdict.

The decision page shows it, the gateway records its verdict, and human evaluation is added later. Rates and differences
are shares between 0 and 1; costs are integer nano-USD, and None without a price.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.errors import EvaluationError
from trainer.files import replacing

CLASS_F1 = "f1:"
"""What the name of a metric begins with that is the F1 of one class of the answers."""


class ArmKind(StrEnum):
    """What an arm does with a question."""

    BASE = "base"
    PROMPTED = "prompted"
    CONSTRAINED = "constrained"
    RETRIEVAL = "retrieval"
    ADAPTER = "adapter"
    ADAPTER_RETRIEVAL = "adapter+retrieval"
    FRONTIER = "frontier"
    RECORDED = "recorded"


class VerdictWord(StrEnum):
    """The three answers to: may it go live?"""

    PROMOTE = "PROMOTE"
    DO_NOT_DEPLOY = "DO_NOT_DEPLOY"
    NOT_ENOUGH_ITEMS = "NOT_ENOUGH_ITEMS"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskFacts(_Part):
    """The task; `frozen_at` is None when it was not frozen, `changed` names what differs from then."""

    name: str
    sha256: str
    items: int
    frozen_at: str | None
    changed: tuple[str, ...] = ()


class BaseFacts(_Part):
    """The base model as it was served."""

    model: str
    base_sha256: str | None
    template_sha256: str | None


class MetricResult(_Part):
    """One metric of one arm over `of` items."""

    value: float
    interval_95: tuple[float, float]
    of: int


class Tokens(_Part):
    """Tokens of all requests of an arm."""

    prompt: int
    completion: int
    cached: int = 0
    """Of the prompts: what the engine had kept from before."""


class Latency(_Part):
    """How long the answers of an arm took."""

    p50: float
    p95: float


class ArmCost(_Part):
    """What an arm cost in nano-USD; `per_correct` is None when nothing was right, all are None without a price."""

    total: int | None
    per_request: int | None
    per_correct: int | None


class Arm(_Part):
    """One column of the comparison; `digest` names an adapter's weights, `failed` lists lines without an answer."""

    name: str
    kind: ArmKind
    model: str
    digest: str | None
    metrics: dict[str, MetricResult]
    slices: dict[str, dict[str, MetricResult]]
    tokens: Tokens
    latency_ms: Latency
    cost_nano_usd: ArmCost
    failed: tuple[int, ...] = ()
    settings: dict[str, Any] = {}


class Difference(_Part):
    """`arm` minus `against`, item by item; `items_needed` detects the least gain with a power of 80 %."""

    arm: str
    against: str
    metric: str
    value: float
    interval_95: tuple[float, float]
    items_needed: int


class Check(_Part):
    """One check of the gate; `passed` is None when the figures cannot tell, `limit` is in the unit of `measured`."""

    name: str
    passed: bool | None
    measured: float | None
    required: str
    sentence: str
    limit: float | None = None


class Gate(_Part):
    """The verdict and what it is made of; without one, `summary` says why. `arm` is what it is about."""

    verdict: VerdictWord | None
    summary: str
    checks: tuple[Check, ...] = ()
    arm: str | None = None
    against: str | None = None
    cost_saving: str | None = None


class ShownAnswer(_Part):
    """One item that the arm won or lost against what it is compared with."""

    line: int
    prompt: str
    expected: str
    before: str
    after: str


class Examples(_Part):
    """Items side by side: `won` only the arm got right, `lost` only the other one did."""

    won: tuple[ShownAnswer, ...] = ()
    lost: tuple[ShownAnswer, ...] = ()


class ComparisonReport(_Part):
    """One comparison; `answers` is the file with every answer, beside the report."""

    format: Literal[1] = 1
    created_at: str
    complete: bool
    task: TaskFacts
    base: BaseFacts
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]
    gate: Gate
    examples: Examples
    answers: str | None = None
    human: dict[str, Any] | None = None

    def arm(self, name: str) -> Arm:
        """The arm of that name; raises `EvaluationError`."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise EvaluationError(f"the comparison has no arm {name}; it has {', '.join(arm.name for arm in self.arms)}.")

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return self.model_dump(mode="json")

    def save(self, path: Path) -> None:
        """Write the report; an interruption leaves the old file or the new one."""
        with replacing(path) as file:
            json.dump(self.as_json(), file, indent=2, ensure_ascii=False)
            file.write("\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a report; raises `EvaluationError` when there is none at `path`."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise EvaluationError(
                f"{path} cannot be read ({error.strerror}); give the report of a comparison."
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "document"
            raise EvaluationError(f"{path} is no report of `turntable compare`: {field}: {first['msg']}.") from error
