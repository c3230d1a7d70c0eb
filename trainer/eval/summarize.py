"""Build the report: arms with metrics and slices, differences, the verdict, examples side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trainer.eval.answers import Answer
from trainer.eval.arms import ArmPlan
from trainer.eval.costs import basis_of, cost_of, cost_saving
from trainer.eval.examples import EvalExample
from trainer.eval.metrics import ArmSeries, answer_classes
from trainer.eval.report import (
    CLASS_F1,
    Arm,
    ArmKind,
    Difference,
    Examples,
    Gate,
    Latency,
    MetricResult,
    ShownAnswer,
    Tokens,
)
from trainer.eval.statistics import Bootstrap, MetricEstimate, MetricSample
from trainer.eval.task import CORRECT, EOS_RATE, LENGTH, Task
from trainer.eval.verdict import ClassEvidence, GateEvidence, best_of, decide

_SHOWN = 10
_UNTRAINED = (ArmKind.CONSTRAINED, ArmKind.RETRIEVAL)


@dataclass(frozen=True)
class ScoredArm:
    """One arm with its answers, in the order of the examples, and its metrics."""

    plan: ArmPlan
    answers: Sequence[Answer]
    series: ArmSeries
    settings: Mapping[str, Any] = field(default_factory=dict)


class Assembly:
    """Build the parts of a report from the columns of a comparison."""

    def __init__(self, task: Task, items: Sequence[EvalExample], columns: Sequence[ScoredArm]) -> None:
        self._task, self._items = task, items
        self._columns = {column.plan.name: column for column in columns}
        self._bootstrap = Bootstrap(task.seed)
        self._classes = answer_classes(task, items)
        self.arms = tuple(self._arm(column) for column in columns)

    @property
    def candidate(self) -> ScoredArm | None:
        """The candidate of the verdict."""
        kind = self._task.gate.arm
        return next((column for column in self._columns.values() if column.plan.kind == kind), None)

    @property
    def reference(self) -> ScoredArm | None:
        """The best of the arms that the candidate must beat."""
        kinds, metric = self._task.gate.against, self._task.gate.metric
        values = {arm.name: arm.metrics[metric].value for arm in self.arms if arm.kind in kinds}
        return self._columns[best_of(values)] if values else None

    def differences(self) -> tuple[Difference, ...]:
        """Every arm against the reference on every metric; the candidate against all others on the one of the gate."""
        found = []
        if reference := self.reference:
            others = [column for column in self._columns.values() if column is not reference]
            for one in others:
                found += [self._difference(one, reference, metric) for metric in one.series.metrics]
            if candidate := self.candidate:
                rest = [column for column in others if column is not candidate]
                found += [self._difference(candidate, column, self._task.gate.metric) for column in rest]
        return tuple(found)

    def gate(self, forgotten: MetricSample | None, *, frozen: bool, changed: tuple[str, ...]) -> Gate:
        """Compute the verdict; without a candidate or a reference there is none, and the summary says so."""
        candidate, reference = self.candidate, self.reference
        if candidate is None or reference is None:
            missing = self._task.gate.arm if candidate is None else " and ".join(self._task.gate.against)
            return Gate(verdict=None, summary=f"There is no verdict: no arm of the kind {missing} was asked.")
        metric, one = self._task.gate.metric, candidate.plan.name
        arms = {arm.name: arm for arm in self.arms}
        evidence = GateEvidence(
            arm=one,
            against=reference.plan.name,
            items=len(self._items),
            gain=self._gap(candidate, reference, metric),
            slices=dict(self._slice_gaps(candidate, reference, metric)),
            classes=dict(self._class_gaps(candidate, reference)),
            stopped=self._gap(candidate, reference, EOS_RATE),
            forgetting=None if forgotten is None else self._bootstrap.estimate(forgotten),
            cost_saving=cost_saving(arms[one], [arm for arm in self.arms if arm.digest is None and arm.name != one]),
            frozen=frozen,
            changed=changed,
        )
        gate = decide(self._task.gate, evidence)
        return gate.model_copy(update={"summary": f"{gate.summary}{self._cheaper(arms[one])}"})

    def examples(self) -> Examples:
        """Return the examples that the candidate won and lost most clearly."""
        candidate, reference = self.candidate, self.reference
        if candidate is None or reference is None:
            return Examples()
        gains = self._scores(candidate) - self._scores(reference)
        order = [int(at) for at in np.argsort(-gains, kind="stable")]
        shown = [(gains[at], self._shown(at, reference, candidate)) for at in order]
        won = [example for gain, example in shown if gain > 0]
        lost = [example for gain, example in reversed(shown) if gain < 0]
        return Examples(won=tuple(won[:_SHOWN]), lost=tuple(lost[:_SHOWN]))

    def _arm(self, column: ScoredArm) -> Arm:
        plan, answered = column.plan, [answer for answer in column.answers if answer.error is None]
        times = [answer.latency_ms for answer in answered] or [0.0]
        named = {**column.series.metrics, **{f"{CLASS_F1}{n}": one for n, one in column.series.by_class.items()}}
        correct = column.series.metrics[CORRECT].scores
        return Arm(
            name=plan.name,
            kind=plan.kind,
            model=plan.model,
            digest=plan.digest,
            metrics={name: _measure(self._bootstrap.estimate(one)) for name, one in named.items()},
            slices=self._slices(column),
            tokens=Tokens(
                prompt=sum(answer.prompt_tokens for answer in answered),
                completion=sum(answer.completion_tokens for answer in answered),
                cached=sum(answer.cached_tokens for answer in answered),
            ),
            latency_ms=Latency(p50=float(np.percentile(times, 50)), p95=float(np.percentile(times, 95))),
            cost_nano_usd=cost_of(column.answers, 0 if correct is None else int(np.nansum(correct))),
            failed=tuple(answer.line for answer in column.answers if answer.error is not None),
            settings=dict(column.settings) | _priced(answered) | basis_of(answered),
        )

    def _slices(self, column: ScoredArm) -> dict[str, dict[str, MetricResult]]:
        return {
            label: {
                name: _measure(self._bootstrap.estimate(one.at(chosen))) for name, one in column.series.metrics.items()
            }
            for label, chosen in self._members()
        }

    def _members(self) -> Iterator[tuple[str, Any]]:
        for label in sorted({label for item in self._items for label in item.slices}):
            yield label, np.array([label in item.slices for item in self._items])

    def _class_gaps(self, one: ScoredArm, other: ScoredArm) -> Iterator[tuple[str, ClassEvidence]]:
        """The classes of the answers, which are slices by themselves: of each, how far F1 is from the reference."""
        for name in sorted({name for name in self._classes if name is not None}):
            mine, theirs = one.series.by_class[name], other.series.by_class[name]
            gap = self._bootstrap.difference(mine, theirs, least_difference=self._task.gate.least_gain)
            predicted, wanted_count = one.series.answered(name)
            # What an interval is sure of comes from the items of the class, not from all that were asked.
            yield name, ClassEvidence(replace(gap, of=wanted_count), predicted, wanted_count)

    def _gap(self, one: ScoredArm, other: ScoredArm, metric: str) -> MetricEstimate:
        least_difference = 0.0 if metric == LENGTH else self._task.gate.least_gain
        return self._bootstrap.difference(
            one.series.metrics[metric], other.series.metrics[metric], least_difference=least_difference
        )

    def _slice_gaps(self, one: ScoredArm, other: ScoredArm, metric: str) -> Iterator[tuple[str, MetricEstimate]]:
        mine, theirs, least_difference = (
            one.series.metrics[metric],
            other.series.metrics[metric],
            self._task.gate.least_gain,
        )
        for label, chosen in self._members():
            yield (
                label,
                self._bootstrap.difference(mine.at(chosen), theirs.at(chosen), least_difference=least_difference),
            )

    def _difference(self, one: ScoredArm, other: ScoredArm, metric: str) -> Difference:
        gap = self._gap(one, other, metric)
        return Difference(
            arm=one.plan.name,
            against=other.plan.name,
            metric=metric,
            value=gap.value,
            interval_95=gap.interval,
            items_needed=gap.items_needed,
        )

    def _cheaper(self, candidate: Arm) -> str:
        """Mention arms that need no training and come close to the candidate."""
        metric, rules = self._task.gate.metric, self._task.gate
        mine = candidate.metrics[metric].value
        near = [arm for arm in self.arms if arm.kind in _UNTRAINED and arm.kind not in rules.against]
        sentences = [
            f" Mind that {arm.name}, which needs no training, has {metric} {arm.metrics[metric].value:.1%}."
            for arm in near
            if arm.metrics[metric].value > mine - rules.least_gain
        ]
        return "".join(sentences)

    def _scores(self, column: ScoredArm) -> Any:
        scores = column.series.metrics[self._task.gate.metric].scores
        return np.nan_to_num(column.series.metrics[CORRECT].features[:, 0] if scores is None else scores)

    def _shown(self, at: int, before: ScoredArm, after: ScoredArm) -> ShownAnswer:
        item = self._items[at]
        return ShownAnswer(
            line=item.line,
            prompt=item.question,
            expected=item.expected,
            before=before.answers[at].text,
            after=after.answers[at].text,
        )


def _priced(answered: Sequence[Answer]) -> dict[str, int]:
    """Return the number of requests with a price, if only some have one."""
    known = sum(answer.cost_nano_usd is not None for answer in answered)
    return {"requests_with_a_price": known} if 0 < known < len(answered) else {}


def _measure(one: MetricEstimate) -> MetricResult:
    return MetricResult(value=one.value, interval_95=one.interval, of=one.of)
