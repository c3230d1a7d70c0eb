"""Bringing evidence to a version: a comparison's verdict, somebody's approval, and the end of an approval."""

from adapters import AdapterRef, Registry, State, Version
from gateway.errors import ConflictError
from gateway.gates.gate import APPROVAL, Gate, publishers
from gateway.gates.verdict import VERDICT, Verdict


class Evidences:
    """What operators and comparisons say about versions; methods block on the database."""

    def __init__(self, registry: Registry, gate: Gate) -> None:
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
