"""Examples for the prompted arms, chosen from the training rows alone and always the same ones.

`diverse` takes one fixed set: from each class in turn, always the row whose words are least covered by those already
taken. `nearest` takes for each question the rows that BM25 finds most like it, the most alike last.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from trainer.data.near_duplicates import answer_text, normalised, words
from trainer.data.schema import Example
from trainer.eval.examples import EvalExample
from trainer.eval.parsing import parse_document
from trainer.eval.retrieval import Index
from trainer.eval.task import Task

_MAX_WORDS = 200
"""Longer examples are not taken: sixteen of them would leave no room for the question."""


class Shots:
    """Chooses the examples that go before a question."""

    def __init__(self, task: Task, pool: Sequence[Example]) -> None:
        self._task = task
        self._pool = [example for example in pool if len(_said(example).split()) <= _MAX_WORDS] or list(pool)

    def before(self, item: EvalExample) -> list[dict[str, Any]]:
        """The examples for an item as turns of a conversation."""
        if not self._task.shots:
            return []
        if self._task.shot_choice == "nearest":
            chosen = [self._pool[at] for at in reversed(self._index.nearest(item.question, self._task.shots))]
        else:
            chosen = self.diverse
        return [turn for example in chosen for turn in _turns(example)]

    @cached_property
    def diverse(self) -> list[Example]:
        """The fixed set; ties go to the earlier row."""
        classes: dict[str, list[Example]] = {}
        for example in self._pool:
            classes.setdefault(_class(example, self._task.label or next(iter(self._task.fields), "")), []).append(
                example
            )
        covered: set[str] = set()
        chosen: list[Example] = []
        waiting = [classes[name] for name in sorted(classes)]
        while len(chosen) < min(self._task.shots, len(self._pool)):
            candidates = waiting[len(chosen) % len(waiting)]
            if not candidates:
                waiting.remove(candidates)
                continue
            best = max(candidates, key=lambda example: _newness(example, covered))
            candidates.remove(best)
            chosen.append(best)
            covered |= _vocabulary(best)
        return chosen

    @cached_property
    def _index(self) -> Index:
        return Index([_said(example) for example in self._pool])


def _newness(example: Example, covered: set[str]) -> float:
    """The share of an example's words that no chosen example has; short examples are cheaper and no worse."""
    own = _vocabulary(example)
    return len(own - covered) / (len(own) + 10)


def _vocabulary(example: Example) -> set[str]:
    return set(words(normalised(_said(example))))


def _said(example: Example) -> str:
    said = [message.content for message in example.messages[: example.answer_index] if message.role == "user"]
    return said[-1] if said else ""


def _class(example: Example, field: str) -> str:
    document = parse_document(answer_text(example))
    return str(document.get(field, "")) if isinstance(document, dict) else ""


def _turns(example: Example) -> list[dict[str, Any]]:
    return [turn for turn in example.as_dicts()[: example.answer_index + 1] if turn["role"] != "system"]
