"""Cost evidence: measured weights, capacity and quality, stored with their date; the newest of a kind counts.

A measurement is read from the JSON of a load test or of a comparison, and reduced to the facts that costs need.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from sqlalchemy import JSON, BigInteger, Column, Engine, Integer, MetaData, String, Table, insert, select

from gateway.clock import iso_date, now_us
from gateway.errors import InvalidRequestError

metadata = MetaData()
cost_evidence = Table(
    "cost_evidence",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),
    Column("made_us", BigInteger, nullable=False),
    Column("document", JSON, nullable=False),
)
work_prices = Table(
    "work_prices",
    metadata,
    Column("version", String(32), primary_key=True),
    Column("since_us", BigInteger, nullable=False),
    Column("document", JSON, nullable=False),
)

RIGHT = ("correct", "exact_match")
"""Metrics that say of each answer whether it is right; others say how it ended, or how near it came."""
_WITHIN = re.compile(r"^([0-9.e+-]+) requests per second are within the limits")
_SAME_RATE = 0.01
_ELSEWHERE = ("frontier", "recorded")


class EvidenceKind(StrEnum):
    """Kind of measurement."""

    WEIGHTS = "weights"
    CAPACITY = "capacity"
    QUALITY = "quality"


@dataclass(frozen=True)
class CostEvidence:
    """One stored measurement."""

    made_us: int
    document: Mapping[str, Any]

    @property
    def made_on(self) -> str:
        """UTC day of the measurement."""
        return iso_date(self.made_us)


class CostEvidenceStore:
    """Stores evidence and work prices in the database; nothing is ever deleted. Methods block."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def add(self, kind: EvidenceKind, document: Mapping[str, Any], made_us: int | None = None) -> None:
        """Store a measurement, which counts from now on, or from `made_us`."""
        with self._database.begin() as connection:
            values = {"kind": kind, "made_us": made_us or now_us(), "document": dict(document)}
            connection.execute(insert(cost_evidence).values(values))

    def keep_price(self, version: str, document: Mapping[str, Any]) -> None:
        """Store the document of a price version, so that the costs of its rows can be computed again."""
        with self._database.begin() as connection:
            row = work_prices.c
            if connection.execute(select(row.version).where(row.version == version)).first() is None:
                values = {"version": version, "since_us": now_us(), "document": dict(document)}
                connection.execute(insert(work_prices).values(values))

    def newest(self, kind: EvidenceKind) -> CostEvidence | None:
        """Return the latest measurement of a kind."""
        row = cost_evidence.c
        query = select(row.made_us, row.document).where(row.kind == kind).order_by(row.id.desc()).limit(1)
        with self._database.connect() as connection:
            found = connection.execute(query).first()
        return None if found is None else CostEvidence(found.made_us, found.document)

    def all(self, kind: EvidenceKind) -> Sequence[CostEvidence]:
        """Return every measurement of a kind, oldest first."""
        row = cost_evidence.c
        query = select(row.made_us, row.document).where(row.kind == kind).order_by(row.made_us, row.id)
        with self._database.connect() as connection:
            return [CostEvidence(found.made_us, found.document) for found in connection.execute(query)]


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightsFact(_Fact):
    """Measured picoseconds of engine time per token, and their fit to the measured batches."""

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


class EvidenceProvenance(BaseModel):
    """Where and when a load test was run; fields that older versions did not write are None."""

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
        """Return, as clauses, why the load test did not measure the gateway at `url`, which serves `models`."""
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
    """Capacity of one engine for requests of a mean length, from `turntable loadtest capacity` or `sweep`."""

    slo_per_s: float | None = Field(gt=0)
    """Requests per second within the latency limits; None when only saturation was measured."""
    saturated_per_s: float = Field(gt=0)
    """Requests answered per second at saturation, whatever the latency."""
    prompt_tokens: float = Field(ge=0)
    output_tokens: float = Field(ge=0)
    conclusion: str
    provenance: EvidenceProvenance | None = None
    despite: str | None = None
    """The operator's reason to use a capacity that was not measured on this gateway."""


class RateFact(_Fact):
    """Hits of one metric."""

    hits: int = Field(ge=0)
    of: int = Field(gt=0)


class QualityFact(_Fact):
    """Results of one model on one task."""

    requests: int = Field(gt=0)
    prompt_tokens: int = Field(ge=0)
    cached_tokens: int = Field(0, ge=0)
    """Cached part of `prompt_tokens`, as far as the comparison recorded it."""
    completion_tokens: int = Field(ge=0)
    rates: dict[str, RateFact]


class ComparisonFact(_Fact):
    """Arms of a comparison on one task, from `turntable compare`."""

    task: str
    models: dict[str, QualityFact]


FACTS: Mapping[EvidenceKind, type[_Fact]] = {
    EvidenceKind.WEIGHTS: WeightsFact,
    EvidenceKind.CAPACITY: CapacityFact,
    EvidenceKind.QUALITY: ComparisonFact,
}


def validate_fact(kind: EvidenceKind, document: Any) -> dict[str, Any]:
    """Validate a fact and return it as stored; raises `InvalidRequestError` naming the wrong field."""
    try:
        return FACTS[kind].model_validate(document).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "document"
        raise InvalidRequestError(
            f"This is not valid {kind} evidence: '{field}': {first['msg']}.", param=field
        ) from error


def from_file(document: Any) -> tuple[EvidenceKind, dict[str, Any]]:
    """Extract kind and fact from the JSON of `turntable loadtest` or `turntable compare`.

    Raises `InvalidRequestError` when there is none.
    """
    if isinstance(document, dict) and document.get("tool") == "turntable loadtest":
        return EvidenceKind.CAPACITY, validate_fact(EvidenceKind.CAPACITY, _capacity(document))
    if isinstance(document, dict) and "arms" in document and "gate" in document:
        return EvidenceKind.QUALITY, validate_fact(EvidenceKind.QUALITY, _comparison(document))
    raise InvalidRequestError(
        "This file holds no measurement; give the --json of `turntable loadtest capacity`, or of `turntable compare`."
    )


def _capacity(document: Mapping[str, Any]) -> dict[str, Any]:
    if document.get("kind") not in ("capacity", "sweep"):
        raise InvalidRequestError(
            f"A load test of kind '{document.get('kind')}' measures no capacity; use `turntable loadtest capacity`."
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
    """Reduce a comparison to the arms answered by this engine and the metrics that count right answers."""
    if not document.get("complete", False):
        raise InvalidRequestError("This comparison has requests that failed, so it has no verdict; repeat it.")
    models = {
        arm["name"]: {
            "requests": document["task"]["items"],
            "prompt_tokens": arm["tokens"]["prompt"],
            "cached_tokens": arm["tokens"].get("cached", 0),
            "completion_tokens": arm["tokens"]["completion"],
            "rates": dict(_right_rates(arm["metrics"])),
        }
        for arm in document["arms"]
        if arm["kind"] not in _ELSEWHERE
    }
    return {"task": document["task"]["name"], "models": models}


def _right_rates(metrics: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    for name in RIGHT:
        if (metric := metrics.get(name)) is not None and metric["of"]:
            yield name, {"hits": round(metric["value"] * metric["of"]), "of": metric["of"]}
