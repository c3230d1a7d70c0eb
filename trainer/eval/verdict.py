"""Compute the verdict from measured differences: PROMOTE, DO_NOT_DEPLOY or NOT_ENOUGH_ITEMS, with all checks.

A check passes, fails, or is inconclusive at the sample size. Any failure is DO_NOT_DEPLOY; else any inconclusive check
is NOT_ENOUGH_ITEMS; else PROMOTE. A drop beyond its limit fails when its interval excludes zero, and is inconclusive
otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer.eval.report import Check, Gate, VerdictWord
from trainer.eval.statistics import MetricEstimate
from trainer.eval.task import GateRules

_ONE_SIDED_ITEMS = 6
"""Five items that agree do so by chance once in sixteen times; six pass a sign test."""


@dataclass(frozen=True)
class ClassEvidence:
    """One class of the answers: the difference in F1, and how often the arm answered it and should have."""

    f1: MetricEstimate
    predicted: int
    reference: int


@dataclass(frozen=True)
class GateEvidence:
    """The input of the gate: differences of `arm` minus `against`, forgetting in nats per token.

    `classes` is empty when the answers are not classes; `forgetting` is None when the task names no general text.
    """

    arm: str
    against: str
    items: int
    gain: MetricEstimate
    slices: Mapping[str, MetricEstimate]
    stopped: MetricEstimate
    forgetting: MetricEstimate | None
    cost_saving: str
    frozen: bool = False
    changed: tuple[str, ...] = ()
    classes: Mapping[str, ClassEvidence] = field(default_factory=dict)


def decide(rules: GateRules, evidence: GateEvidence) -> Gate:
    """Compute the verdict with all checks."""
    checks = [
        _frozen(evidence),
        _items(rules, evidence),
        _gain(rules, evidence),
        *_slices(rules, evidence),
        *_classes(rules, evidence),
    ]
    checks += [_stopped(rules, evidence)]
    checks += [_forgetting(rules, evidence.forgetting)] if evidence.forgetting else []
    failed = [check for check in checks if check.passed is False]
    unsure = [check for check in checks if check.passed is None]
    if failed:
        word, why = VerdictWord.DO_NOT_DEPLOY, failed[0].sentence
    elif unsure:
        word, why = VerdictWord.NOT_ENOUGH_ITEMS, unsure[0].sentence
    else:
        word, why = VerdictWord.PROMOTE, f"{checks[2].sentence} Nothing else fell beyond its limit."
    return Gate(
        verdict=word,
        summary=why,
        checks=tuple(checks),
        arm=evidence.arm,
        against=evidence.against,
        cost_saving=evidence.cost_saving,
    )


def best_of(values: Mapping[str, float]) -> str:
    """Return the arm with the highest value; of equal ones the first."""
    return max(values, key=lambda name: values[name])


def _frozen(evidence: GateEvidence) -> Check:
    sentence = "The task is what it was when it was frozen."
    if not evidence.frozen:
        sentence = (
            "The task was never frozen: nothing shows that it was there before training (`turntable compare freeze`)."
        )
    elif evidence.changed:
        what = ", ".join(evidence.changed)
        sentence = f"The task has changed since it was frozen ({what}); freeze it again, before training."
    return _check("task", not evidence.changed, None, "as frozen", sentence)


def _items(rules: GateRules, evidence: GateEvidence) -> Check:
    enough = evidence.items >= rules.min_items
    more = (
        ""
        if enough
        else f", fewer than the {rules.min_items} that a verdict takes; add {rules.min_items - evidence.items}"
    )
    sentence = f"{evidence.items} items were asked{more}."
    return _check("items", True if enough else None, evidence.items, f"at least {rules.min_items}", sentence)


def _gain(rules: GateRules, evidence: GateEvidence) -> Check:
    gain, (low, high) = evidence.gain, evidence.gain.interval
    needed = max(gain.items_needed, rules.min_items)
    figures = f"{rules.metric} {_change(gain.value)} against {evidence.against} ({_points(low)} to {_points(high)})"
    passed: bool | None = None
    if gain.value >= rules.least_gain and low > 0:
        passed, sentence = True, f"{figures}; {_size(rules.least_gain)} were asked for."
    elif (high < rules.least_gain and gain.of >= rules.min_items) or (
        gain.value < rules.least_gain and gain.of >= needed
    ):
        passed, sentence = (
            False,
            f"{figures}, short of the {_size(rules.least_gain)} asked for by {_size(_short(rules, gain))}.",
        )
    else:
        sentence = (
            f"{figures}: {gain.of} items cannot tell whether that is {_size(rules.least_gain)}; about {needed:,} would."
        )
    required = f"at least {_points(rules.least_gain)} points, interval above 0"
    return _check("gain", passed, gain.value, required, sentence).model_copy(update={"limit": rules.least_gain})


def _short(rules: GateRules, gain: MetricEstimate) -> float:
    return rules.least_gain - gain.value


def _slices(rules: GateRules, evidence: GateEvidence) -> Sequence[Check]:
    if not evidence.slices:
        return []
    limit = rules.slice_fall
    fallen = {name: one for name, one in evidence.slices.items() if -one.value > limit}
    if not fallen:
        name, least = min(evidence.slices.items(), key=lambda entry: entry[1].value)
        sentence = f"No slice fell by more than {_size(limit)}; the least gain is {name} at {_points(least.value)}."
        return [_check("slices", True, least.value, f"none down by more than {_size(limit)}", sentence)]
    return [_fall(f"slice {name}", rules.metric, one, limit, f" in the slice {name}") for name, one in fallen.items()]


def _classes(rules: GateRules, evidence: GateEvidence) -> Sequence[Check]:
    """Check every class that is never answered or whose F1 fell beyond the limit of slices; one check if none."""
    if not evidence.classes:
        return []
    limit = rules.slice_fall
    checks = []
    for name, one in evidence.classes.items():
        if one.reference and not one.predicted:
            checks.append(_vanished(evidence, name, one))
        elif -one.f1.value > limit:
            checks.append(_fall(f"class {name}", "F1", one.f1, limit, f" in the class {name}"))
    if checks:
        return checks
    name, least = min(evidence.classes.items(), key=lambda entry: entry[1].f1.value)
    sentence = (
        f"No class fell in F1 by more than {_size(limit)}; the least gain is {name} at {_points(least.f1.value)}."
    )
    return [_check("classes", True, least.f1.value, f"none vanished or down by more than {_size(limit)}", sentence)]


def _vanished(evidence: GateEvidence, name: str, one: ClassEvidence) -> Check:
    figures = f"the adapter {evidence.arm} never answers {name}, which {one.reference} items want"
    passed = False if one.reference >= _ONE_SIDED_ITEMS else None
    more = "" if passed is False else ", but so few items may do that"
    return _check(f"class {name}", passed, 0, "every class is answered", f"{figures}{more}.")


def _stopped(rules: GateRules, evidence: GateEvidence) -> Check:
    return _fall("stop rate", "answers that end by themselves", evidence.stopped, rules.stop_fall)


def _fall(name: str, what: str, one: MetricEstimate, limit: float, where: str = "") -> Check:
    low, high = one.interval
    figures = f"{what} {_change(one.value)}{where} ({_points(low)} to {_points(high)}, {one.of} items)"
    required = f"not down by more than {_size(limit)}"
    if -one.value <= limit:
        return _check(name, True, one.value, required, f"{figures}.")
    beyond = _size(-one.value - limit)
    if high < 0 and one.of >= _ONE_SIDED_ITEMS:
        return _check(name, False, one.value, required, f"{figures}, {beyond} beyond the limit.")
    return _check(
        name, None, one.value, required, f"{figures}, {beyond} beyond the limit, but so few items may do that."
    )


def _forgetting(rules: GateRules, one: MetricEstimate) -> Check:
    low, high = one.interval
    required = f"at most +{rules.forgetting:g} nats per token"
    figures = f"Cross-entropy on general text changed by {one.value:+.3f} ({low:+.3f} to {high:+.3f}) nats per token"
    if one.value <= rules.forgetting:
        return _check("forgetting", True, one.value, required, f"{figures}; up to +{rules.forgetting:g} is allowed.")
    passed = False if low > 0 else None
    beyond = f"{figures}, {one.value - rules.forgetting:.3f} beyond the limit."
    return _check("forgetting", passed, one.value, required, beyond)


def _check(name: str, passed: bool | None, measured: float | None, required: str, sentence: str) -> Check:
    sentence = sentence[:1].upper() + sentence[1:]
    return Check(name=name, passed=passed, measured=measured, required=required, sentence=sentence)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _size(share: float) -> str:
    size = f"{100 * share:.1f}".removesuffix(".0")
    return f"{size} point" if size == "1" else f"{size} points"


def _change(share: float) -> str:
    return f"rose by {_size(share)}" if share >= 0 else f"fell by {_size(-share)}"
