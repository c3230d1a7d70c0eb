"""Measurements as files: what costs need of a load test's or a comparison's JSON, checked and cut down to that."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.costs.evidence import Kind
from gateway.errors import InvalidRequestError

_WITHIN = re.compile(r"^([0-9.e+-]+) requests per second are within the limits")
_SAME_RATE = 0.01
_ELSEWHERE = ("frontier", "recorded")
_WHOLE = 1e-6


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightsFact(_Fact):
    """Picoseconds of engine time per token, and how well they fit the batches that they were measured on."""

    prompt_ps: int = Field(ge=0)
    cached_ps: int = Field(ge=0)
    output_ps: int = Field(ge=0)
    error_share: float = Field(ge=0)
    """Root of the mean squared error over the mean busy time of a batch."""
    r_squared: float
    batches: int = Field(gt=0)
    concurrency: int = Field(gt=0)
    model: str
    chars_per_token: float | None = Field(None, gt=0)


class CapacityFact(_Fact):
    """What one engine can do, for requests of a mean length, from `turntable loadtest capacity` or `sweep`."""

    slo_per_s: float | None = Field(gt=0)
    """Requests per second within the limits; None when only saturation was looked for."""
    saturated_per_s: float = Field(gt=0)
    """The most that was answered in a second, whatever the latency."""
    prompt_tokens: float = Field(ge=0)
    output_tokens: float = Field(ge=0)
    conclusion: str


class RateFact(_Fact):
    """How often one thing was right."""

    hits: int = Field(ge=0)
    of: int = Field(gt=0)


class QualityFact(_Fact):
    """One model on one task."""

    requests: int = Field(gt=0)
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    rates: dict[str, RateFact]


class ComparisonFact(_Fact):
    """Arms on one task, from `turntable compare`."""

    task: str
    models: dict[str, QualityFact]


FACTS: Mapping[Kind, type[_Fact]] = {
    Kind.WEIGHTS: WeightsFact,
    Kind.CAPACITY: CapacityFact,
    Kind.QUALITY: ComparisonFact,
}


def checked(kind: Kind, document: Any) -> dict[str, Any]:
    """A fact as it is kept; raises `InvalidRequestError` naming the field that is wrong."""
    try:
        return FACTS[kind].model_validate(document).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "document"
        raise InvalidRequestError(f"This is no {kind} evidence: '{field}': {first['msg']}.", param=field) from error


def from_file(document: Any) -> tuple[Kind, dict[str, Any]]:
    """The fact in a JSON document that one of our tools wrote; raises `InvalidRequestError` when there is none."""
    if isinstance(document, dict) and document.get("tool") == "turntable loadtest":
        return Kind.CAPACITY, checked(Kind.CAPACITY, _capacity(document))
    if isinstance(document, dict) and "arms" in document and "gate" in document:
        return Kind.QUALITY, checked(Kind.QUALITY, _comparison(document))
    raise InvalidRequestError(
        "This file holds no measurement; give the --json of `turntable loadtest capacity`, or of `turntable compare`."
    )


def _capacity(document: Mapping[str, Any]) -> dict[str, Any]:
    if document.get("kind") not in ("capacity", "sweep"):
        raise InvalidRequestError(
            f"A load test of kind '{document.get('kind')}' finds no capacity; use `turntable loadtest capacity`."
        )
    if document.get("verdict") != "valid":
        raise InvalidRequestError(f"This load test is not valid ({document.get('verdict')}); repeat it.")
    levels = [level for level in document["levels"] if level["reports"]]
    conclusion = str(document.get("conclusion", ""))
    found = _WITHIN.match(conclusion)
    within = float(found.group(1)) if found else None
    if document["kind"] == "capacity" and within is None:
        raise InvalidRequestError(f"This load test found no capacity: {conclusion or 'it says nothing'}")
    best = max(levels, key=_answered_per_s)
    near = [level for level in levels if within and abs(level["load"] - within) <= _SAME_RATE * within]
    total = (near or [best])[0]["reports"][-1]["total"]
    return {
        "slo_per_s": within,
        "saturated_per_s": max(_answered_per_s(best), within or 0),
        "prompt_tokens": total["prompt_tokens"] / total["succeeded"],
        "output_tokens": total["completion_tokens"] / total["succeeded"],
        "conclusion": conclusion,
    }


def _answered_per_s(level: Mapping[str, Any]) -> float:
    rates = [report["total"]["requests_per_s"] for report in level["reports"]]
    return float(sum(rates) / len(rates))


def _comparison(document: Mapping[str, Any]) -> dict[str, Any]:
    """The arms that the engine here answered; of their metrics those that count right answers."""
    if not document.get("complete", False):
        raise InvalidRequestError("This comparison has requests that failed, so it has no verdict; repeat it.")
    models = {
        arm["name"]: {
            "requests": document["task"]["items"],
            "prompt_tokens": arm["tokens"]["prompt"],
            "completion_tokens": arm["tokens"]["completion"],
            "rates": dict(_counts(arm["metrics"])),
        }
        for arm in document["arms"]
        if arm["kind"] not in _ELSEWHERE
    }
    return {"task": document["task"]["name"], "models": models}


def _counts(metrics: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    for name, one in metrics.items():
        hits = one["value"] * one["of"]
        if one["value"] <= 1 and abs(hits - round(hits)) < _WHOLE:
            yield name, {"hits": round(hits), "of": one["of"]}
