"""Promotion gate: requires a valid verdict or a recorded override, and on request the approval of a second person.

A verdict is valid when it says PROMOTE on complete data for the base model and chat template that are served now. The
gate itself does not read the database; `EvidenceRecorder` writes verdicts and approvals into the registry.

Verdict: the outcome of a comparison on a frozen task, recorded as evidence of a version.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field
from pydantic import BaseModel as Schema

from adapters import AdapterRef, BaseModel, Dossier, Evidence, Registry, State, Version
from adapters.audit import storable
from adapters.registry import PROMOTION
from gateway.errors import ConflictError
from gateway.settings import Settings

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
    limit: float | None = None
    """What `measured` is held against, in its unit."""
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


@dataclass(frozen=True)
class ServedBase:
    """The base model that is served; `files` is None for a gateway attached to engines without the model's files.

    Hashes of missing files are None and are not compared.
    """

    name: str
    files: BaseModel | None

    @property
    def base_sha256(self) -> str | None:
        """Hash of the weights; reads them on first use, which may take seconds."""
        return self.files.weights_sha256 if self.files else None

    @property
    def template_sha256(self) -> str | None:
        """Hash of the chat template."""
        return self.files.chat_template_sha256 if self.files else None

    def document(self) -> dict[str, Any]:
        """Return JSON with the field names of a verdict."""
        return {"model": self.name, "base_sha256": self.base_sha256, "template_sha256": self.template_sha256}


APPROVAL = "approval"
"""Kind of evidence: an approval, or its withdrawal."""
STATUS_EVIDENCE = (VERDICT, APPROVAL, PROMOTION)
"""Kinds of evidence that `status` reads."""
_HASHES = {"base_sha256": "base model", "template_sha256": "chat template"}


@dataclass(frozen=True, slots=True)
class Override:
    """Decision to promote without a valid verdict: the reason, and who is responsible."""

    reason: str
    by: str


@dataclass(frozen=True)
class PromotionGate:
    """Promotion rules; `judge` applies them to a version."""

    served: ServedBase
    require_verdict: bool
    require_approval: bool

    def judge(self, dossier: Dossier, actor: str, override: Override | None) -> dict[str, Any]:
        """Return the grounds on which `actor` may promote the version; raises `ConflictError` if any are missing."""
        grounds: dict[str, Any] = {}
        objection = self.objection(dossier.evidence.get(VERDICT))
        if objection is None:
            grounds["verdict"] = _summary(dossier.evidence[VERDICT])
        elif override is not None:
            grounds |= {"override": asdict(override), "overridden": objection}
        elif self.require_verdict:
            raise _refused(dossier, objection)
        approval = valid_approval(dossier)
        if self.require_approval:
            _require_second_person(dossier, approval, actor)
        if approval is not None:
            grounds["approval"] = {"by": approval.actor, "reason": approval.document["reason"]}
        return grounds

    def objection(self, verdict: Evidence | None) -> str | None:
        """Return why a verdict does not pass now, as the rest of a sentence; None when it passes."""
        if verdict is None:
            return "has no verdict"
        found = verdict.document
        if found["verdict"] != VerdictOutcome.PROMOTE:
            return f"has the verdict {found['verdict']}" + (f" ({found['summary']})" if found["summary"] else "")
        if not found["complete"]:
            return "has a verdict that was reached on part of the data only"
        for field, what in _HASHES.items():
            then, now = found[field], getattr(self.served, field)
            if now is not None and then != now:
                was = f"{then:.12}" if then else "an unknown one"
                return f"has a verdict on another {what}: it was {was}, now {now:.12} is served"
        return None

    def status(self, evidence: Mapping[str, Evidence]) -> dict[str, Any]:
        """Return verdict, approval and override of a version for listings; None where there is none."""
        verdict, approval = evidence.get(VERDICT), evidence.get(APPROVAL)
        promotion = evidence.get(PROMOTION)
        override = promotion.document.get("override") if promotion else None
        return {
            "verdict": None if verdict is None else verdict.document["verdict"],
            "verdict_counts": verdict is not None and self.objection(verdict) is None,
            "approval": None if approval is None else _approval_text(approval),
            "override": f"{override['by']}: {override['reason']}" if override else None,
        }


def publishers(dossier: Dossier) -> set[str]:
    """Return all actors that published this version's content under its name."""
    return {change.actor for change in dossier.history if change.state is State.REGISTERED}


def valid_approval(dossier: Dossier) -> Evidence | None:
    """Return the approval if it is not withdrawn and not older than the last publish."""
    approval = dossier.evidence.get(APPROVAL)
    if approval is None or approval.document.get("withdrawn"):
        return None
    published = [change.at for change in dossier.history if change.state is State.REGISTERED]
    return approval if not published or approval.at >= published[-1] else None


def _require_second_person(dossier: Dossier, approval: Evidence | None, actor: str) -> None:
    version = dossier.version
    subject = f"{version.name}@v{version.version}"
    if approval is None:
        withdrawn = dossier.evidence.get(APPROVAL)
        why = f" ({withdrawn.document['withdrawn']})" if withdrawn and withdrawn.document.get("withdrawn") else ""
        raise ConflictError(
            f"{subject} is not approved{why}; have a person with another admin key run "
            f"`turntable adapters approve {version.name} v{version.version} --reason …`.",
            code="approval_required",
        )
    if approval.actor == actor:
        raise ConflictError(
            f"{subject} was approved with the key that promotes it ('{actor}'); a promotion needs two people.",
            code="approval_required",
        )


def _refused(dossier: Dossier, objection: str) -> ConflictError:
    version = dossier.version
    return ConflictError(
        f"{version.name}@v{version.version} {objection}, so it cannot be promoted; run `turntable compare TASK "
        "--record`, or promote it with an override (--override REASON --by NAME).",
        code="verdict_required",
    )


def _summary(verdict: Evidence) -> dict[str, Any]:
    """Summarise a verdict for the audit log; the whole of it is the version's evidence."""
    kept = ("verdict", "task_sha256", "base_sha256", "template_sha256", "summary")
    return {name: verdict.document[name] for name in kept} | {"by": verdict.actor, "at": verdict.at.isoformat()}


def _approval_text(approval: Evidence) -> str:
    if withdrawn := approval.document.get("withdrawn"):
        return f"withdrawn: {withdrawn}"
    return f"by {approval.actor}: {approval.document['reason']}"


def build_gate(settings: Settings, base_dir: Path | None) -> PromotionGate:
    """Build the gate from the settings; `base_dir` holds the base model's files, if there are any."""
    base = BaseModel.read(base_dir) if base_dir else None
    return PromotionGate(
        ServedBase(settings.served_model_name, base), settings.require_verdict, settings.require_approval
    )


class EvidenceRecorder:
    """Records verdicts and approvals of versions. Methods block."""

    def __init__(self, registry: Registry, gate: PromotionGate) -> None:
        self._registry = registry
        self._gate = gate

    def record_verdict(self, name: str, number: int, verdict: ComparisonVerdict, *, actor: str) -> Version:
        """Record a verdict; raises `ConflictError` when it is about other content than this version's."""
        version = self._version(name, number)
        if verdict.digest != version.digest:
            raise ConflictError(
                f"This verdict is for digest {verdict.digest:.12}, but {name}@v{number} has {version.digest:.12}; "
                "compare the version that you want to promote.",
                code="verdict_of_another_version",
            )
        document = verdict.model_dump(mode="json")
        served = self._gate.served
        document["base_sha256"] = verdict.base_sha256 or served.base_sha256
        document["template_sha256"] = verdict.template_sha256 or served.template_sha256
        self._registry.record_evidence(version, VERDICT, document, actor=actor)
        return version

    def approve(self, name: str, number: int, reason: str, *, actor: str) -> Version:
        """Record an approval; raises `ConflictError` when `actor` published the version."""
        version = self._version(name, number)
        if version.state is not State.READY:
            raise ConflictError(f"{name}@v{number} is {version.state}; only a ready version can be approved.")
        if actor in publishers(self._registry.dossier(version)):
            raise ConflictError(
                f"{name}@v{number} was published with this key ('{actor}'); an approval needs another person's admin "
                "key.",
                code="approval_by_publisher",
            )
        self._registry.record_evidence(version, APPROVAL, {"reason": reason}, actor=actor)
        return version

    def withdraw_approval(self, version: Version, why: str, *, actor: str) -> None:
        """Withdraw the approval of a version, if it has one."""
        found = {evidence.kind: evidence for evidence in self._registry.evidence(version.name, version.version)}.get(
            APPROVAL
        )
        if found is not None and not found.document.get("withdrawn"):
            document = {**found.document, "approved_by": found.actor, "withdrawn": why}
            self._registry.record_evidence(version, APPROVAL, document, actor=actor)

    def _version(self, name: str, number: int) -> Version:
        return self._registry.snapshot.resolve(AdapterRef(name, version=number))
