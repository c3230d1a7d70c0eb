"""Quality review of an adapter version: drift of its live answers, and whether to train it again."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from adapters import AdapterRef, Registry, Version
from adapters.registry import PROMOTION
from gateway.clock import date_of, to_us
from gateway.quality.drift import Drift, DriftFinding, findings
from gateway.quality.feedback import FeedbackStore
from gateway.quality.sampler import AnswerProfileStore, AnswerSampler, today
from gateway.releases.promotion_gate import ServedBase

_TRAINED_ON = {"base_weights_sha256": ("base_sha256", "base"), "chat_template_sha256": ("template_sha256", "template")}
"""Hashes in an adapter's training metadata: the attribute of the served base to compare with, and its name."""


class Reason(StrEnum):
    """Reason to train again."""

    DRIFT = "drift"
    FEEDBACK = "feedback"
    AGE = "age"
    BASE = "base"


@dataclass(frozen=True, slots=True)
class Trigger:
    """One reason: whether it is due, and its figures as a sentence."""

    reason: Reason
    is_due: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class RetrainRules:
    """Thresholds: feedback since the promotion, days since the promotion."""

    feedback: int
    days: int


@dataclass(frozen=True, slots=True)
class QualityReview:
    """Drift and retrain triggers of one version; `has_baseline` is false when its training left none."""

    version: Version
    has_baseline: bool
    since_day: int
    findings: list[DriftFinding]
    triggers: list[Trigger]

    def document(self) -> dict[str, Any]:
        """Return the review as JSON."""
        return {
            "name": self.version.name,
            "version": f"v{self.version.version}",
            "since": date_of(self.since_day).isoformat(),
            "has_baseline": self.has_baseline,
            "measures": [finding.document() for finding in self.findings],
            "retrain": [asdict(trigger) for trigger in self.triggers],
        }


class Reviewer:
    """Reviews adapter versions; methods block."""

    def __init__(
        self,
        registry: Registry,
        sampler: AnswerSampler,
        profiles: AnswerProfileStore,
        feedback: FeedbackStore,
        served: ServedBase,
        rules: RetrainRules,
    ) -> None:
        self._registry = registry
        self._sampler = sampler
        self._profiles = profiles
        self._feedback = feedback
        self._served = served
        self._rules = rules

    def review(self, name: str, number: int | None = None, *, days: int = 7) -> QualityReview:
        """Review a version, the live one by default, by its answers of the last days; raises `UnknownAdapterError`."""
        version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
        since_day = today() - days + 1
        baseline = self._sampler.baseline(version)
        found = []
        if baseline is not None:
            found = findings(baseline.counts, self._profiles.read(name, version.digest, since_day))
        return QualityReview(version, baseline is not None, since_day, found, self._triggers(version, found))

    def triggers(self, name: str) -> list[Trigger]:
        """Return the retrain triggers of an adapter; empty while no version of it is live."""
        return self.review(name).triggers if name in self._registry.snapshot.live else []

    def _triggers(self, version: Version, found: list[DriftFinding]) -> list[Trigger]:
        promoted = self._promoted(version)
        return [
            _drift_trigger(found),
            self._feedback_trigger(version, promoted),
            self._age_trigger(promoted),
            self._base_trigger(version),
        ]

    def _promoted(self, version: Version) -> datetime | None:
        """Return when a version was last promoted."""
        evidence = self._registry.evidence(version.name, version.version)
        return next((found.at for found in evidence if found.kind == PROMOTION), None)

    def _feedback_trigger(self, version: Version, promoted: datetime | None) -> Trigger:
        since_us = to_us(promoted) if promoted else 0
        number, bad = self._feedback.count(version.name, since_us)
        sentence = f"{number} feedback ratings since promotion, {bad} of them negative; due at {self._rules.feedback}"
        return Trigger(Reason.FEEDBACK, number >= self._rules.feedback, sentence)

    def _age_trigger(self, promoted: datetime | None) -> Trigger:
        if promoted is None:
            return Trigger(Reason.AGE, is_due=False, sentence="never promoted, so it has no age")
        age = datetime.now(UTC) - promoted
        sentence = f"live for {age.days} days; due at {self._rules.days}"
        return Trigger(Reason.AGE, age >= timedelta(days=self._rules.days), sentence)

    def _base_trigger(self, version: Version) -> Trigger:
        changed = list(self._changed(version))
        names = " and the ".join(changed)
        sentence = f"the {names} served now is not the one it was trained on" if changed else "unchanged since training"
        return Trigger(Reason.BASE, bool(changed), sentence)

    def _changed(self, version: Version) -> Iterator[str]:
        for recorded, (attribute, part) in _TRAINED_ON.items():
            then, now = version.manifest.training.get(recorded), getattr(self._served, attribute)
            if then is not None and now is not None and then != now:
                yield part


def _drift_trigger(found: list[DriftFinding]) -> Trigger:
    if not found:
        return Trigger(Reason.DRIFT, is_due=False, sentence="not sampled: its training left no baseline")
    drifted = [f"{finding.measure} by {finding.distance:.2f}" for finding in found if finding.drift is Drift.DRIFT]
    if drifted:
        return Trigger(Reason.DRIFT, is_due=True, sentence="live answers drifted: " + ", ".join(drifted))
    few = all(finding.drift is Drift.TOO_FEW for finding in found)
    answers = max(finding.answers for finding in found)
    sentence = f"{answers} answers sampled, too few to judge" if few else f"steady over {answers} sampled answers"
    return Trigger(Reason.DRIFT, is_due=False, sentence=sentence)
