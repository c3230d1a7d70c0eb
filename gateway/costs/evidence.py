"""Evidence: measured facts that costs rest on (weights, capacity, quality), kept with their date; the newest counts.

Measurements as files: what costs need of a load test's or a comparison's JSON, checked and cut down to that.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from sqlalchemy import Engine, insert, select

from gateway.clock import iso_date, now_us
from gateway.errors import InvalidRequestError
from gateway.metering.tables import cost_evidence, work_prices


class EvidenceKind(StrEnum):
    """What was measured."""

    WEIGHTS = "weights"
    CAPACITY = "capacity"
    QUALITY = "quality"


@dataclass(frozen=True)
class CostEvidence:
    """One measurement."""

    made_us: int
    document: Mapping[str, Any]

    @property
    def made_on(self) -> str:
        """The day, for people."""
        return iso_date(self.made_us)


class CostEvidenceStore:
    """Keeps evidence in the database; nothing is ever deleted. Methods block."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def add(self, kind: EvidenceKind, document: Mapping[str, Any], made_us: int | None = None) -> None:
        """Keep a measurement; from now on (or from `made_us`) it is the one that counts."""
        with self._database.begin() as connection:
            values = {"kind": kind, "made_us": made_us or now_us(), "document": dict(document)}
            connection.execute(insert(cost_evidence).values(values))

    def keep_price(self, version: str, document: Mapping[str, Any]) -> None:
        """Keep what a price version stands for, so that the costs of its rows can be computed again."""
        with self._database.begin() as connection:
            row = work_prices.c
            if connection.execute(select(row.version).where(row.version == version)).first() is None:
                values = {"version": version, "since_us": now_us(), "document": dict(document)}
                connection.execute(insert(work_prices).values(values))

    def newest(self, kind: EvidenceKind) -> CostEvidence | None:
        """The latest measurement of a kind."""
        row = cost_evidence.c
        query = select(row.made_us, row.document).where(row.kind == kind).order_by(row.id.desc()).limit(1)
        with self._database.connect() as connection:
            found = connection.execute(query).first()
        return None if found is None else CostEvidence(found.made_us, found.document)

    def all(self, kind: EvidenceKind) -> Sequence[CostEvidence]:
        """Every measurement of a kind, the oldest first."""
        row = cost_evidence.c
        query = select(row.made_us, row.document).where(row.kind == kind).order_by(row.made_us, row.id)
        with self._database.connect() as connection:
            return [CostEvidence(found.made_us, found.document) for found in connection.execute(query)]


_WITHIN = re.compile(r"^([0-9.e+-]+) requests per second are within the limits")
_SAME_RATE = 0.01
_ELSEWHERE = ("frontier", "recorded")
RIGHT = ("correct", "exact_match")
"""The metrics that say of each answer whether it is right; others say how it ended, or how near it came."""


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


class Provenance(BaseModel):
    """Where a load test comes from; what an older load tester did not write is None."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    started_at: str | None = None
    turntable_version: str | None = None
    machine: str | None = None
    url: str | None = None
    models: tuple[str, ...] = ()

    @field_validator("machine", mode="before")
    @classmethod
    def _in_words(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {what}" for name, what in value.items())
        return value

    def differences(self, url: str, models: Collection[str], version: str) -> list[str]:
        """Why this is no measurement of the gateway at `url`, which serves `models`, as sentences' ends."""
        if self.url is None:
            return ["it does not say which server was measured"]
        found = []
        if _address(self.url) != _address(url):
            found.append(f"it was measured at {self.url}, and this gateway is at {url}")
        if strange := sorted({name.partition("@")[0] for name in self.models} - set(models)):
            found.append(f"it asked for {', '.join(strange)}, which this gateway does not serve")
        if self.turntable_version not in (None, version):
            found.append(f"it is of Turntable {self.turntable_version}, and this is {version}")
        return found


def _address(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url if "//" in url else f"//{url}")
    host = "127.0.0.1" if parts.hostname in ("localhost", "::1") else parts.hostname
    return host, parts.port or {"https": 443}.get(parts.scheme, 80)


class CapacityFact(_Fact):
    """What one engine can do, for requests of a mean length, from `turntable loadtest capacity` or `sweep`."""

    slo_per_s: float | None = Field(gt=0)
    """Requests per second within the limits; None when only saturation was looked for."""
    saturated_per_s: float = Field(gt=0)
    """The most that was answered in a second, whatever the latency."""
    prompt_tokens: float = Field(ge=0)
    output_tokens: float = Field(ge=0)
    conclusion: str
    provenance: Provenance | None = None
    despite: str | None = None
    """Why it counts although it was not measured here, in the operator's words."""


class RateFact(_Fact):
    """How often one thing was right."""

    hits: int = Field(ge=0)
    of: int = Field(gt=0)


class QualityFact(_Fact):
    """One model on one task."""

    requests: int = Field(gt=0)
    prompt_tokens: int = Field(ge=0)
    cached_tokens: int = Field(0, ge=0)
    """Of the prompts, as far as the comparison recorded it."""
    completion_tokens: int = Field(ge=0)
    rates: dict[str, RateFact]


class ComparisonFact(_Fact):
    """Arms on one task, from `turntable compare`."""

    task: str
    models: dict[str, QualityFact]


FACTS: Mapping[EvidenceKind, type[_Fact]] = {
    EvidenceKind.WEIGHTS: WeightsFact,
    EvidenceKind.CAPACITY: CapacityFact,
    EvidenceKind.QUALITY: ComparisonFact,
}


def checked(kind: EvidenceKind, document: Any) -> dict[str, Any]:
    """A fact as it is kept; raises `InvalidRequestError` naming the field that is wrong."""
    try:
        return FACTS[kind].model_validate(document).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "document"
        raise InvalidRequestError(f"This is no {kind} evidence: '{field}': {first['msg']}.", param=field) from error


def from_file(document: Any) -> tuple[EvidenceKind, dict[str, Any]]:
    """The fact in a JSON document that one of our tools wrote; raises `InvalidRequestError` when there is none."""
    if isinstance(document, dict) and document.get("tool") == "turntable loadtest":
        return EvidenceKind.CAPACITY, checked(EvidenceKind.CAPACITY, _capacity(document))
    if isinstance(document, dict) and "arms" in document and "gate" in document:
        return EvidenceKind.QUALITY, checked(EvidenceKind.QUALITY, _comparison(document))
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
    found, figures = _WITHIN.match(conclusion), document.get("capacity") or {}
    within = figures.get("within_per_s") or (float(found.group(1)) if found else None)
    if document["kind"] == "capacity" and within is None:
        raise InvalidRequestError(f"This load test found no capacity: {conclusion or 'it says nothing'}")
    best = max(levels, key=_answered_per_s)
    near = [level for level in levels if within and abs(level["load"] - within) <= _SAME_RATE * within]
    total = (near or [best])[0]["reports"][-1]["total"]
    # Never a rate that was only offered: what was not answered is no capacity.
    saturated = figures.get("saturated_per_s") or _answered_per_s(best)
    return {
        "slo_per_s": within and min(within, saturated),
        "saturated_per_s": saturated,
        "prompt_tokens": total["prompt_tokens"] / total["succeeded"],
        "output_tokens": total["completion_tokens"] / total["succeeded"],
        "conclusion": conclusion,
        "provenance": document.get("provenance"),
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
            "cached_tokens": arm["tokens"].get("cached", 0),
            "completion_tokens": arm["tokens"]["completion"],
            "rates": dict(_rights(arm["metrics"])),
        }
        for arm in document["arms"]
        if arm["kind"] not in _ELSEWHERE
    }
    return {"task": document["task"]["name"], "models": models}


def _rights(metrics: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    for name in RIGHT:
        if (one := metrics.get(name)) is not None and one["of"]:
            yield name, {"hits": round(one["value"] * one["of"]), "of": one["of"]}
