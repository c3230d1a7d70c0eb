"""Measure the answers of one arm: every metric as a `Series` over all test examples, custom metrics included.

An example without an answer is not measured; a metric has the number of its examples. A custom metric is a Python
function `module:function` beside the task, or importable: `function(answer, expected, row)` returns a number or a bool.
An exception in it is reported per example, and there is no verdict.
"""

import importlib
import importlib.util
import math
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.labels import repeat_as_classes
from trainer.errors import Problem, RecipeError
from trainer.eval.answers import Answer
from trainer.eval.examples import AnswerMatch, EvalExample, Validator, match_answer, parse_document
from trainer.eval.statistics import Floats, MetricSample
from trainer.eval.task import (
    BLEU,
    CORRECT,
    EOS_RATE,
    EXACT_MATCH,
    F1_MACRO,
    FIELD_ACCURACY,
    LENGTH,
    ROUGES,
    SCHEMA_VALID,
    Task,
)

MetricFunction = Callable[[str, str, Any], Any]


def load_function(task: Task) -> MetricFunction | None:
    """Import the custom metric of the task; raises `RecipeError` when it cannot be found or imported."""
    if task.metric_function is None:
        return None
    module, _, name = task.metric_function.partition(":")
    beside = task.directory / f"{module.replace('.', '/')}.py"
    try:
        loaded = _from_file(module, beside) if beside.is_file() else importlib.import_module(module)
    except Exception as error:  # user code
        raise RecipeError(f"metric_function: {module} cannot be imported ({error!r}); looked at {beside}.") from error
    function = getattr(loaded, name, None)
    if not callable(function):
        raise RecipeError(f"metric_function: {module} has no function {name}.")
    found: MetricFunction = function
    return found


def _from_file(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def custom_metric_series(
    task: Task, function: MetricFunction, items: Sequence[EvalExample], answers: Sequence[Answer]
) -> tuple[MetricSample, list[Problem]]:
    """Compute the custom metric of one arm, with a problem for each example where it raised or gave no number."""
    values, problems = [], []
    for example, answer in zip(items, answers, strict=True):
        value = math.nan
        if answer.error is None:
            try:
                value = _number(function(answer.text, example.expected, example.row))
            except Exception as error:  # user code
                why = f"{task.metric_function} raised {type(error).__name__}: {error}{_where(error)} on {answer.arm}"
                problems.append(Problem(str(task.data_path), example.line, why))
        values.append(value)
    return MetricSample.mean_of(values), problems


def _number(returned: Any) -> float:
    if isinstance(returned, bool | int | float) and math.isfinite(returned):
        return float(returned)
    raise TypeError(f"returned {returned!r}, which is not a finite number")


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__ or sys.exc_info()[2])
    last = frames[-1]
    return f" ({Path(last.filename).name}:{last.lineno})" if len(frames) > 1 else ""


_NGRAMS = 4


@dataclass(frozen=True)
class ArmSeries:
    """The metrics of one arm; `by_class` has the F1 of each class."""

    metrics: Mapping[str, MetricSample]
    by_class: Mapping[str, MetricSample] = field(default_factory=dict)

    def answered(self, name: str) -> tuple[int, int]:
        """Return how often the arm answered a class, and how often the class was expected."""
        features = self.by_class[name].features[self.by_class[name].measured]
        _, predicted, reference = features.sum(axis=0)
        return int(predicted), int(reference)


def measure(
    task: Task, items: Sequence[EvalExample], answers: Sequence[Answer], validator: Validator | None
) -> ArmSeries:
    """Compute every metric of one arm that depends on its answers alone, in the order of the examples."""
    matches = [
        match_answer(a.text, example.expected, validator, task.fields)
        for example, a in zip(items, answers, strict=True)
    ]
    exact = [float(a.text.strip() == example.expected.strip()) for example, a in zip(items, answers, strict=True)]
    metrics = {CORRECT: [float(all(match.fields.values())) for match in matches] if task.fields else exact}
    metrics |= _structural(task, matches)
    if EXACT_MATCH in task.metrics:
        metrics[EXACT_MATCH] = exact
    metrics[EOS_RATE] = [float(answer.finish_reason == "stop") for answer in answers]
    metrics[LENGTH] = [float(answer.completion_tokens) for answer in answers]
    series = {name: MetricSample.mean_of(values) for name, values in metrics.items()}
    pairs = [(answer.text, example.expected) for example, answer in zip(items, answers, strict=True)]
    series |= _textual(task, pairs)
    by_class: dict[str, MetricSample] = {}
    predicted, reference = _labels(task, pairs)
    if F1_MACRO in task.metrics or repeat_as_classes(Counter(reference)):
        macro, by_class = f1(predicted, reference)
        series |= {F1_MACRO: macro} if F1_MACRO in task.metrics else {}
    missing = np.array([answer.error is not None for answer in answers])
    return ArmSeries(
        {name: _without(series[name], missing) for name in task.metric_names if name in series},
        {name: _without(one, missing) for name, one in by_class.items()},
    )


def answer_classes(task: Task, items: Sequence[EvalExample]) -> tuple[str | None, ...]:
    """Return the expected class of each example, where the expected answers are repeated short labels."""
    _, reference = _labels(task, [("", example.expected) for example in items])
    return tuple(reference) if repeat_as_classes(Counter(reference)) else (None,) * len(items)


def f1(predicted: Sequence[str], reference: Sequence[str]) -> tuple[MetricSample, dict[str, MetricSample]]:
    """Compute macro F1 and F1 per class over the expected classes; other answers are errors."""
    classes = sorted(set(reference))
    predicted_labels, reference_labels = np.asarray(predicted, object), np.asarray(reference, object)
    columns = []
    for name in classes:
        columns += [
            (predicted_labels == name) & (reference_labels == name),
            predicted_labels == name,
            reference_labels == name,
        ]
    features = np.stack(columns, axis=1).astype(np.float64)
    single = {name: MetricSample(features[:, 3 * at : 3 * at + 3], _macro_f1) for at, name in enumerate(classes)}
    return MetricSample(features, _macro_f1), single


def _macro_f1(sums: Floats, _items: Floats) -> Floats:
    hits, predicted, reference = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    scores: Floats = (2 * hits / np.maximum(predicted + reference, 1)).mean(axis=1)
    return scores


def _structural(task: Task, matches: Sequence[AnswerMatch]) -> dict[str, list[float]]:
    found = {name: [float(match.fields[name]) for match in matches] for name in task.fields}
    if task.fields:
        found[FIELD_ACCURACY] = [sum(match.fields.values()) / len(task.fields) for match in matches]
    if task.json_schema:
        found[SCHEMA_VALID] = [float(match.schema_valid) for match in matches]
    return found


def _labels(task: Task, pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return answered and expected labels: a field of the document, or the whole text."""
    name = task.label or next(iter(task.fields), "")

    def label(text: str) -> str:
        if not name:
            return text.strip()
        document = parse_document(text)
        return str(document.get(name)) if isinstance(document, dict) else ""

    return [label(predicted) for predicted, _ in pairs], [label(reference) for _, reference in pairs]


def _textual(task: Task, pairs: Sequence[tuple[str, str]]) -> dict[str, MetricSample]:
    found: dict[str, MetricSample] = {}
    if rouges := [name for name in ROUGES if name in task.metrics]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(rouges, use_stemmer=False)
        scores = [scorer.score(reference, predicted) for predicted, reference in pairs]
        found |= {name: MetricSample.mean_of([score[name].fmeasure for score in scores]) for name in rouges}
    if BLEU in task.metrics:
        found[BLEU] = bleu(pairs)
    return found


def bleu(pairs: Sequence[tuple[str, str]]) -> MetricSample:
    """Compute corpus BLEU, between 0 and 1, from the n-gram counts of each answer."""
    from sacrebleu.metrics import bleu as sacrebleu

    scorer = sacrebleu.BLEU(effective_order=True)
    counts = [scorer.sentence_score(predicted, [reference]) for predicted, reference in pairs]
    features = np.array([[*c.counts, *c.totals, c.sys_len, c.ref_len] for c in counts], np.float64)
    return MetricSample(features, _corpus_bleu(partial(sacrebleu.BLEU.compute_bleu, smooth_method="exp")))


def _corpus_bleu(compute: Callable[..., object]) -> Callable[[Floats, Floats], Floats]:
    def values(sums: Floats, _items: Floats) -> Floats:
        scores = []
        for row in sums.astype(int).tolist():
            correct, total = row[:_NGRAMS], row[_NGRAMS : 2 * _NGRAMS]
            scores.append(compute(correct, total, row[-2], row[-1]).score / 100)  # type: ignore[attr-defined]
        return np.array(scores, np.float64)

    return values


def _without(series: MetricSample, missing: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> MetricSample:
    """Return the metric without the examples that have no answer."""
    if not missing.any():
        return series
    features = series.features.copy()
    features[missing] = np.nan
    return MetricSample(features, series.value_of)
