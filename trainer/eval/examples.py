"""Read the test examples of a task, and match answers with the expected ones.

A test set that overlaps with the training rows is refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from trainer.data.loaders import Reader, Row, read_examples
from trainer.data.near_duplicates import DEFAULT_SIMILARITY, Fingerprint, fingerprint, near_duplicate_clusters
from trainer.data.schema import Example
from trainer.errors import DataError, Problem
from trainer.eval.task import Task


class Validator(Protocol):
    """The part of a JSON Schema validator that is used."""

    def is_valid(self, instance: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class AnswerMatch:
    """The match of one answer: `fields` says for each scored field whether it equals the expected one exactly."""

    schema_valid: bool
    fields: Mapping[str, bool]


class _Nothing:
    """The absence of a JSON document; null is a document."""


NO_DOCUMENT = _Nothing()


def match_answer(answer: str, expected: str, validator: Validator | None, fields: Sequence[str]) -> AnswerMatch:
    """Compare one answer with the expected document and the schema.

    An answer must be exactly one JSON document: text around it is a failure, because an application that parses it
    would fail.
    """
    document, wanted = parse_document(answer), parse_document(expected)
    same = {
        field: isinstance(document, dict) and isinstance(wanted, dict) and document.get(field, ...) == wanted.get(field)
        for field in fields
    }
    return AnswerMatch(document is not NO_DOCUMENT and validator is not None and validator.is_valid(document), same)


def parse_document(text: str) -> Any:
    """The one JSON document that `text` is, or `NOTHING`."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NO_DOCUMENT


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


@dataclass(frozen=True, slots=True)
class EvalExample:
    """One test example; `prompt` are the messages to send, `row` the line as it was read."""

    line: int
    prompt: tuple[Mapping[str, Any], ...]
    expected: str
    row: Mapping[str, Any]
    slices: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The last user message."""
        questions = [message["content"] for message in self.prompt if message["role"] == "user"]
        return str(questions[-1]) if questions else ""


@dataclass(frozen=True)
class EvalSet:
    """The test examples of a task, and the pool of few-shot examples."""

    items: tuple[EvalExample, ...]
    pool: tuple[Example, ...]


def read_eval_set(task: Task) -> EvalSet:
    """Read the test examples of a task; raises `DataError` for rows that are invalid, leaked or cannot be scored."""
    examples = read_examples(task.data_path)
    pool = read_examples(task.train_path) if task.train_path else ()
    file = str(task.data_path)
    if leaks := list(_leaks(task, examples, pool)):
        raise DataError(leaks)
    rows = {row.line: row.fields for row in Reader(task.data_path).read() if isinstance(row, Row)}
    problems = [problem for example in examples for problem in _unmeasurable(task, example, rows[example.line], file)]
    if problems:
        raise DataError(problems)
    return EvalSet(tuple(_item(task, example, rows[example.line]) for example in examples), pool)


def _item(task: Task, example: Example, row: Mapping[str, Any]) -> EvalExample:
    before = tuple(example.as_dicts()[: example.answer_index])
    labels = tuple(f"{name}={_slice_value(name, example, row)}" for name in task.slices)
    return EvalExample(example.line, before, _expected(example), row, labels)


def _expected(example: Example) -> str:
    return example.messages[example.answer_index].content


def _slice_value(name: str, example: Example, row: Mapping[str, Any]) -> str | None:
    document = parse_document(_expected(example))
    found = row.get(name, document.get(name) if isinstance(document, dict) else None)
    return None if found is None else found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _unmeasurable(task: Task, example: Example, row: Mapping[str, Any], file: str) -> Iterator[Problem]:
    """Yield the reasons why a row cannot be scored by the task."""
    expected = _expected(example)
    if not expected:
        yield Problem(file, example.line, "expects a tool call; a comparison scores text answers")
        return
    document = parse_document(expected)
    if task.fields and not isinstance(document, dict):
        what = "no JSON" if document is NO_DOCUMENT else "no JSON object"
        yield Problem(file, example.line, f"expects an answer that is {what}, and the task scores its fields")
        return
    for field in task.fields:
        if field not in document:
            yield Problem(file, example.line, f"expects an answer without {field}, which the task scores; add it")
    for name in task.slices:
        if _slice_value(name, example, row) is None:
            yield Problem(file, example.line, f"has no {name}, neither in the row nor in its answer, to slice by")


def _leaks(task: Task, held_out: Sequence[Example], pool: Sequence[Example]) -> Iterator[Problem]:
    """Yield the test rows that duplicate or nearly duplicate a training row."""
    if not pool:
        return
    marks = [fingerprint(row) for row in (*pool, *held_out)]
    labels = near_duplicate_clusters(
        [mark.shingles for mark in marks], [mark.near for mark in marks], DEFAULT_SIMILARITY
    )
    first: dict[int, int] = {}
    for at, label in enumerate(labels[: len(pool)]):
        first.setdefault(label, at)
    for row, mark, label in zip(held_out, marks[len(pool) :], labels[len(pool) :], strict=True):
        if label in first:
            twin = first[label]
            how = _likeness(mark, marks[twin])
            where = f"{task.train_path}:{pool[twin].line}"
            yield Problem(
                str(task.data_path), row.line, f"{how} {where}, which is train/test leakage; remove one of them"
            )


def _likeness(one: Fingerprint, other: Fingerprint) -> str:
    if one.row == other.row:
        return "has the same messages as"
    return "has the same input as" if one.near == other.near else "has nearly the same input as"
