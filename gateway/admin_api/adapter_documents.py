"""JSON of adapters and their versions, and reading and describing the request bodies of the admin API."""

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, StringConstraints, ValidationError
from pydantic import BaseModel as Schema

from adapters import Evidence, Registry, TrafficPolicy, TrafficSplit, Version
from adapters.audit import storable
from adapters.manifest import PARITY_FILE
from gateway.engines.pool import EnginePool
from gateway.errors import InvalidRequestError
from gateway.releases.promotion_gate import STATUS_EVIDENCE, PromotionGate
from gateway.releases.publish import PARITY_EVIDENCE, PREFLIGHT_EVIDENCE, Publisher

_READ = (*STATUS_EVIDENCE, PREFLIGHT_EVIDENCE, PARITY_EVIDENCE)
_Body = TypeVar("_Body", bound=Schema)
FreeText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), AfterValidator(storable)
]
"""Required free text that is stored, such as a reason."""


def read_body(kind: type[_Body], body: bytes) -> _Body:
    """Parse a JSON body, whatever its content type; raises `InvalidRequestError` naming the field."""
    if rb"\u0000" in body:
        raise InvalidRequestError("The body holds a NUL character, which no database keeps; leave it out.")
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequestError(f"{field or 'The body'}: {first['msg']}.", param=field) from error


def body_of(kind: type[Schema], *, required: bool = True) -> dict[str, Any]:
    """Return the OpenAPI description of a body that `read_body` parses."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


class AdapterDocuments:
    """Combines registry, engines and running work into JSON."""

    def __init__(self, registry: Registry, pool: EnginePool, publisher: Publisher, gate: PromotionGate) -> None:
        self._registry = registry
        self._pool = pool
        self._publisher = publisher
        self._gate = gate

    def versions(self, versions: Iterable[Version]) -> list[dict[str, Any]]:
        """Return versions as rows with their gate status, in one database query."""
        resident, evidence = self._resident(), self._registry.evidence_of(_READ)
        none: dict[str, Evidence] = {}
        return [
            self._row(version, resident) | self._status(version, evidence.get((version.name, version.version), none))
            for version in versions
        ]

    def whole_row(self, version: Version) -> dict[str, Any]:
        """Return one version as a row of `versions`."""
        found = self._registry.evidence(version.name, version.version)
        return self.version(version) | self._status(version, {evidence.kind: evidence for evidence in found})

    def _status(self, version: Version, evidence: Mapping[str, Evidence]) -> dict[str, Any]:
        """Summarise the evidence of a version."""
        preflight, parity = evidence.get(PREFLIGHT_EVIDENCE), evidence.get(PARITY_EVIDENCE)
        vectors = "not compared" if PARITY_FILE in version.manifest.files else "no vectors"
        converted = version.manifest.converted
        return self._gate.status(evidence) | {
            "parity": parity.document["verdict"] if parity else vectors,
            "warnings": list(preflight.document["warnings"]) if preflight else [],
            "converted": list(converted.steps) if converted else [],
        }

    def version(self, version: Version) -> dict[str, Any]:
        """Return state, traffic, resident engines and running step of a version; no database query."""
        return self._row(version, self._resident())

    def _resident(self) -> dict[str, frozenset[str]]:
        return {engine.name: frozenset(engine.loader.resident) for engine in self._pool.engines}

    def _row(self, version: Version, resident: Mapping[str, Collection[str]]) -> dict[str, Any]:
        policy = self._registry.snapshot.policies.get(version.name, TrafficPolicy())
        steps = [w.step for w in self._publisher.jobs if (w.name, w.version) == (version.name, version.version)]
        return {
            "name": version.name,
            "version": f"v{version.version}",
            "digest": version.digest,
            "state": version.state,
            "reason": version.reason,
            "live": policy.live == version.version,
            "traffic": _traffic(policy, version.version),
            "pinned": policy.pinned and policy.live == version.version,
            "resident": [engine for engine, names in resident.items() if version.engine_name in names],
            "step": steps[0] if steps else None,
        }

    def work(self, name: str) -> list[dict[str, Any]]:
        """List the running work of a name; its version is null until it is registered."""
        work = [work for work in self._publisher.jobs if work.name == name]
        return [{"version": _label(job.version), "step": job.step} for job in work]

    def whole_version(self, version: Version) -> dict[str, Any]:
        """Return a version with its manifest, state history and evidence."""
        history = self._registry.history(version.name, version.version)
        evidence = self._registry.evidence(version.name, version.version)
        status = self._status(version, {found.kind: found for found in evidence})
        return (
            self.version(version)
            | status
            | {
                "manifest": version.manifest.model_dump(mode="json"),
                "history": [
                    {"state": change.state, "at": change.at, "actor": change.actor, "reason": change.reason}
                    for change in history
                ],
                "evidence": [
                    {"kind": found.kind, "at": found.at, "actor": found.actor, "document": dict(found.document)}
                    for found in evidence
                ],
            }
        )

    def policy(self, name: str) -> dict[str, Any]:
        """Return the traffic policy of a name."""
        policy = self._registry.snapshot.policies.get(name, TrafficPolicy())
        return {
            "live": _label(policy.live),
            "previous": _label(policy.previous),
            "canary": _split(policy.canary),
            "shadow": _split(policy.shadow),
            "pinned": policy.pinned,
        }


def _label(number: int | None) -> str | None:
    return None if number is None else f"v{number}"


def _split(split: TrafficSplit | None) -> dict[str, Any] | None:
    return None if split is None else {"version": f"v{split.version}", "percent": split.percent}


def _traffic(policy: TrafficPolicy, number: int) -> str:
    """Summarise the traffic of a version."""
    if policy.live == number:
        return f"live {100 - policy.canary.percent:g}%" if policy.canary else "live"
    roles = [
        f"{role} {split.percent:g}%"
        for role, split in (("canary", policy.canary), ("shadow", policy.shadow))
        if split is not None and split.version == number
    ]
    return ", ".join(roles) or ("previous" if policy.previous == number else "")
