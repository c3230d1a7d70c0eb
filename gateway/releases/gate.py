"""Builds the gate of a gateway from its settings.

Which base model and chat template are served right now: what a verdict must have been reached on.

The gate before a promotion: a verdict that counts now, or an override on record; and a second person when asked.

A verdict counts when it says PROMOTE on complete data, and was reached on the base and the chat template that are
served at this moment. Nothing here touches the database: it judges a dossier that somebody read.

Bringing evidence to a version: a comparison's verdict, somebody's approval, and the end of an approval.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters import AdapterRef, BaseModel, Dossier, Evidence, Registry, State, Version
from adapters.registry import PROMOTION
from gateway.errors import ConflictError
from gateway.releases.verdict import VERDICT, Outcome, Verdict
from gateway.settings import Settings


@dataclass(frozen=True)
class ServedBase:
    """The base as requests meet it; `files` is None when the gateway is attached to engines and has none at hand.

    Hashes of what is not at hand are None and are not compared with anything.
    """

    name: str
    files: BaseModel | None

    @property
    def base_sha256(self) -> str | None:
        """Identity of the very weights; reads them on first use, which may take seconds."""
        return self.files.weights_sha256 if self.files else None

    @property
    def template_sha256(self) -> str | None:
        """Identity of the chat template."""
        return self.files.chat_template_sha256 if self.files else None

    def document(self) -> dict[str, Any]:
        """As JSON, in the words of a verdict."""
        return {"model": self.name, "base_sha256": self.base_sha256, "template_sha256": self.template_sha256}


APPROVAL = "approval"
"""Under which the registry keeps that somebody else agreed, or that this was withdrawn."""
SHOWN = (VERDICT, APPROVAL, PROMOTION)
"""The kinds of evidence that `standing` reads."""
_HASHES = {"base_sha256": "base model", "template_sha256": "chat template"}


@dataclass(frozen=True, slots=True)
class Override:
    """Somebody's decision to promote without a verdict that counts: why, and who answers for it."""

    reason: str
    by: str


@dataclass(frozen=True)
class PromotionGate:
    """The rules in force; `judge` applies them to one version."""

    served: ServedBase
    require_verdict: bool
    require_approval: bool

    def judge(self, dossier: Dossier, actor: str, override: Override | None) -> dict[str, Any]:
        """On which grounds `actor` may promote the version; raises `ConflictError` with what is missing."""
        grounds: dict[str, Any] = {}
        objection = self.objection(dossier.evidence.get(VERDICT))
        if objection is None:
            grounds["verdict"] = _told(dossier.evidence[VERDICT])
        elif override is not None:
            grounds |= {"override": asdict(override), "overridden": objection}
        elif self.require_verdict:
            raise _refused(dossier, objection)
        approval = standing_approval(dossier)
        if self.require_approval:
            _demand_second_person(dossier, approval, actor)
        if approval is not None:
            grounds["approval"] = {"by": approval.actor, "reason": approval.document["reason"]}
        return grounds

    def objection(self, verdict: Evidence | None) -> str | None:
        """Why a verdict does not open the gate at this moment, as the rest of a sentence; None when it does."""
        if verdict is None:
            return "has no verdict"
        found = verdict.document
        if found["verdict"] != Outcome.PROMOTE:
            return f"has the verdict {found['verdict']}" + (f" ({found['summary']})" if found["summary"] else "")
        if not found["complete"]:
            return "has a verdict that was reached on part of the data only"
        for field, what in _HASHES.items():
            then, now = found[field], getattr(self.served, field)
            if now is not None and then != now:
                was = f"{then:.12}" if then else "an unknown one"
                return f"has a verdict on another {what}: it was {was}, now {now:.12} is served"
        return None

    def standing(self, evidence: Mapping[str, Evidence]) -> dict[str, Any]:
        """Verdict, approval and override of a version for listings; None where there is none."""
        verdict, approval = evidence.get(VERDICT), evidence.get(APPROVAL)
        promotion = evidence.get(PROMOTION)
        override = promotion.document.get("override") if promotion else None
        return {
            "verdict": None if verdict is None else verdict.document["verdict"],
            "verdict_counts": verdict is not None and self.objection(verdict) is None,
            "approval": None if approval is None else _approval_told(approval),
            "override": f"{override['by']}: {override['reason']}" if override else None,
        }


def publishers(dossier: Dossier) -> set[str]:
    """Everybody who ever published the version's content under its name."""
    return {change.actor for change in dossier.history if change.state is State.REGISTERED}


def standing_approval(dossier: Dossier) -> Evidence | None:
    """The approval in force: not withdrawn, and given to what was published last."""
    approval = dossier.evidence.get(APPROVAL)
    if approval is None or approval.document.get("withdrawn"):
        return None
    published = [change.at for change in dossier.history if change.state is State.REGISTERED]
    return approval if not published or approval.at >= published[-1] else None


def _demand_second_person(dossier: Dossier, approval: Evidence | None, actor: str) -> None:
    version = dossier.version
    subject = f"{version.name}@v{version.version}"
    if approval is None:
        withdrawn = dossier.evidence.get(APPROVAL)
        why = f" ({withdrawn.document['withdrawn']})" if withdrawn and withdrawn.document.get("withdrawn") else ""
        raise ConflictError(
            f"{subject} is not approved{why}; have somebody with another admin key run "
            f"`turntable adapters approve {version.name} v{version.version} --reason …`.",
            code="approval_required",
        )
    if approval.actor == actor:
        raise ConflictError(
            f"{subject} was approved with the key that now promotes it ('{actor}'); approval and promotion take two.",
            code="approval_required",
        )


def _refused(dossier: Dossier, objection: str) -> ConflictError:
    version = dossier.version
    return ConflictError(
        f"{version.name}@v{version.version} {objection}, so it may not go live; run `turntable compare TASK "
        "--record`, or promote it with an override that says why and who answers for it (--override REASON --by NAME).",
        code="verdict_required",
    )


def _told(verdict: Evidence) -> dict[str, Any]:
    """What the log keeps of a verdict; the whole of it is the version's evidence."""
    kept = ("verdict", "task_sha256", "base_sha256", "template_sha256", "summary")
    return {name: verdict.document[name] for name in kept} | {"by": verdict.actor, "at": verdict.at.isoformat()}


def _approval_told(approval: Evidence) -> str:
    if withdrawn := approval.document.get("withdrawn"):
        return f"withdrawn: {withdrawn}"
    return f"by {approval.actor}: {approval.document['reason']}"


def build_gate(settings: Settings, base_dir: Path | None) -> PromotionGate:
    """The gate before promotions, over the base whose files are in `base_dir` when they are at hand."""
    base = BaseModel.read(base_dir) if base_dir else None
    return PromotionGate(
        ServedBase(settings.served_model_name, base), settings.require_verdict, settings.require_approval
    )


class EvidenceRecorder:
    """What operators and comparisons say about versions; methods block on the database."""

    def __init__(self, registry: Registry, gate: PromotionGate) -> None:
        self._registry = registry
        self._gate = gate

    def record_verdict(self, name: str, number: int, verdict: Verdict, *, actor: str) -> Version:
        """Keep a verdict with the version that it is about; raises `ConflictError` when that is another one."""
        version = self._version(name, number)
        if verdict.digest != version.digest:
            raise ConflictError(
                f"This verdict is about the digest {verdict.digest:.12}, but {name}@v{number} is {version.digest:.12}; "
                "compare the version that is to go live.",
                code="verdict_of_another_version",
            )
        document = verdict.model_dump(mode="json")
        served = self._gate.served
        document["base_sha256"] = verdict.base_sha256 or served.base_sha256
        document["template_sha256"] = verdict.template_sha256 or served.template_sha256
        self._registry.record_evidence(version, VERDICT, document, actor=actor)
        return version

    def approve(self, name: str, number: int, reason: str, *, actor: str) -> Version:
        """Keep that `actor` agrees to the version going live; raises `ConflictError` when it is theirs."""
        version = self._version(name, number)
        if version.state is not State.READY:
            raise ConflictError(f"{name}@v{number} is {version.state}; only a ready version can be approved.")
        if actor in publishers(self._registry.dossier(version)):
            raise ConflictError(
                f"{name}@v{number} was published with this very key ('{actor}'); approval takes somebody with another "
                "admin key.",
                code="approval_by_publisher",
            )
        self._registry.record_evidence(version, APPROVAL, {"reason": reason}, actor=actor)
        return version

    def withdraw_approval(self, version: Version, why: str, *, actor: str) -> None:
        """An approval, if there is one, holds no longer."""
        found = {one.kind: one for one in self._registry.evidence(version.name, version.version)}.get(APPROVAL)
        if found is not None and not found.document.get("withdrawn"):
            document = {**found.document, "approved_by": found.actor, "withdrawn": why}
            self._registry.record_evidence(version, APPROVAL, document, actor=actor)

    def _version(self, name: str, number: int) -> Version:
        return self._registry.snapshot.resolve(AdapterRef(name, version=number))
