"""The review of a name's live version: what its answers are like now, and whether it is time to train again."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from adapters import AdapterRef, Registry, Version
from adapters.registry import PROMOTION
from gateway.clock import date_of, to_us
from gateway.quality.drift import AnswerProfileStore, Drift, Finding, findings, today
from gateway.quality.feedback import FeedbackStore
from gateway.quality.sampler import AnswerSampler
from gateway.releases.gate import ServedBase

_TRAINED_ON = {"base_weights_sha256": ("base_sha256", "base"), "chat_template_sha256": ("template_sha256", "template")}


class Reason(StrEnum):
    """Why one may want to train again."""

    DRIFT = "drift"
    FEEDBACK = "feedback"
    AGE = "age"
    BASE = "base"


@dataclass(frozen=True, slots=True)
class Trigger:
    """One reason: whether it holds now, and the figures as a sentence."""

    reason: Reason
    is_due: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Rules:
    """From when on a name is due: so many pieces of feedback since the promotion, so many days since it."""

    feedback: int
    days: int


@dataclass(frozen=True, slots=True)
class QualityReview:
    """What is known of one version's live answers; `has_baseline` is false when its training left none."""

    version: Version
    has_baseline: bool
    since_day: int
    findings: list[Finding]
    triggers: list[Trigger]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.version.name,
            "version": f"v{self.version.version}",
            "since": date_of(self.since_day).isoformat(),
            "has_baseline": self.has_baseline,
            "measures": [finding.document() for finding in self.findings],
            "retrain": [asdict(trigger) for trigger in self.triggers],
        }


class Reviewer:
    """Reviews versions; methods block on the database."""

    def __init__(
        self,
        registry: Registry,
        watch: AnswerSampler,
        counts: AnswerProfileStore,
        book: FeedbackStore,
        served: ServedBase,
        rules: Rules,
    ) -> None:
        self._registry = registry
        self._watch = watch
        self._counts = counts
        self._book = book
        self._served = served
        self._rules = rules

    def review(self, name: str, number: int | None = None, *, days: int = 7) -> QualityReview:
        """A version, the live one by default, by its answers of the last days; raises `UnknownAdapterError`."""
        version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
        since_day = today() - days + 1
        baseline = self._watch.baseline(version)
        found = []
        if baseline is not None:
            found = findings(baseline.counts, self._counts.read(name, version.digest, since_day))
        return QualityReview(version, baseline is not None, since_day, found, self._triggers(version, found))

    def triggers(self, name: str) -> list[Trigger]:
        """Whether it is time to train a name again; nothing while no version of it is live."""
        return self.review(name).triggers if name in self._registry.snapshot.live else []

    def _triggers(self, version: Version, found: list[Finding]) -> list[Trigger]:
        promoted = self._promoted(version)
        return [_drifted(found), self._talked_about(version, promoted), self._old(promoted), self._other_base(version)]

    def _promoted(self, version: Version) -> datetime | None:
        """When it last went live."""
        evidence = self._registry.evidence(version.name, version.version)
        return next((found.at for found in evidence if found.kind == PROMOTION), None)

    def _talked_about(self, version: Version, promoted: datetime | None) -> Trigger:
        since_us = to_us(promoted) if promoted else 0
        number, bad = self._book.count(version.name, since_us)
        sentence = (
            f"{number} pieces of feedback since it went live, {bad} of them bad; {self._rules.feedback} make a round"
        )
        return Trigger(Reason.FEEDBACK, number >= self._rules.feedback, sentence)

    def _old(self, promoted: datetime | None) -> Trigger:
        if promoted is None:
            return Trigger(Reason.AGE, is_due=False, sentence="it was never promoted, so its time does not run")
        age = datetime.now(UTC) - promoted
        sentence = f"live for {age.days} days; come back after {self._rules.days}, with what went wrong by then"
        return Trigger(Reason.AGE, age >= timedelta(days=self._rules.days), sentence)

    def _other_base(self, version: Version) -> Trigger:
        changed = list(self._changed(version))
        told = (
            f"the {' and the '.join(changed)} served now is not what it was trained on" if changed else "as trained on"
        )
        return Trigger(Reason.BASE, bool(changed), told)

    def _changed(self, version: Version) -> Iterator[str]:
        for recorded, (attribute, what) in _TRAINED_ON.items():
            then, now = version.manifest.training.get(recorded), getattr(self._served, attribute)
            if then is not None and now is not None and then != now:
                yield what


def _drifted(found: list[Finding]) -> Trigger:
    if not found:
        return Trigger(Reason.DRIFT, is_due=False, sentence="not watched: its training left no baseline")
    drifted = [f"{finding.measure} by {finding.distance:.2f}" for finding in found if finding.drift is Drift.DRIFT]
    if drifted:
        return Trigger(Reason.DRIFT, is_due=True, sentence="live answers drifted: " + ", ".join(drifted))
    few = all(finding.drift is Drift.TOO_FEW for finding in found)
    answers = max(finding.answers for finding in found)
    sentence = f"{answers} answers watched, too few to judge" if few else f"steady over {answers} watched answers"
    return Trigger(Reason.DRIFT, is_due=False, sentence=sentence)
