"""Rows of very different lengths for the benchmark, from the embedded base's own corpus, the same on every machine."""

from collections.abc import Sequence
from random import Random

from trainer.base_model.corpus import Conversation, conversations
from trainer.data.schema import Example, Message

_MEDIAN_ANSWERS, _SPREAD, _MOST_ANSWERS = 1.6, 0.9, 20.0


def mixed_rows(count: int, seed: int = 0) -> list[Example]:
    """Questions with one to twenty answers in a row: many short rows and a few long ones, as instruction data has."""
    dice = Random(seed)  # noqa: S311 - a choice of rows
    talks, rows = iter(conversations(int(_MOST_ANSWERS) * count, seed)), list[Example]()
    for line in range(1, count + 1):
        answers = round(min(_MOST_ANSWERS, max(1.0, dice.lognormvariate(_MEDIAN_ANSWERS, _SPREAD))))
        rows.append(_row(line, [next(talks) for _ in range(answers)]))
    return rows


def _row(line: int, talks: Sequence[Conversation]) -> Example:
    answer = "\n".join(turn["content"] for talk in talks for turn in talk if turn["role"] == "assistant")
    asked = next(turn["content"] for turn in talks[0] if turn["role"] == "user")
    return Example(line, (Message("user", asked), Message("assistant", answer)))
