"""Verdict: the outcome of a comparison on a frozen task, recorded as evidence of a version."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field
from pydantic import BaseModel as Schema

from adapters.audit import storable

VERDICT = "verdict"
"""Kind of evidence."""

_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Sentence = Annotated[str, Field(max_length=2_000), AfterValidator(storable)]


class VerdictOutcome(StrEnum):
    """Outcomes of a comparison; only PROMOTE passes the gate."""

    PROMOTE = "PROMOTE"
    DO_NOT_DEPLOY = "DO_NOT_DEPLOY"
    NOT_ENOUGH_ITEMS = "NOT_ENOUGH_ITEMS"


class GateCheck(Schema):
    """One rule of the comparison: measured and required value, and both as a sentence."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)]
    passed: bool | None
    measured: Any = None
    required: Any = None
    sentence: _Sentence = ""


class ComparisonVerdict(Schema):
    """JSON of a comparison's outcome for the version with this digest.

    Null hashes of base and template mean those served when the verdict is posted. `complete` is false when examples or
    arms are missing; such a verdict never passes the gate.
    """

    model_config = ConfigDict(extra="forbid")

    verdict: VerdictOutcome
    digest: _Sha256
    task_sha256: _Sha256
    base_sha256: _Sha256 | None = None
    template_sha256: _Sha256 | None = None
    complete: bool
    checks: Annotated[list[GateCheck], Field(max_length=200)] = []
    summary: _Sentence = ""
    human: dict[str, Any] | None = None
