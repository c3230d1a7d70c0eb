"""Rows that teach opposite things: the same input answered differently, or a near one put into another class.

Near inputs of unlike classes are read again before they are named: when the words that the classes differ in are the
words that the inputs differ in, each answer is right for its input.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from trainer.data.clusters import Indexes
from trainer.data.fingerprints import answer_text, normalised, words
from trainer.data.labels import Labels, json_object
from trainer.data.rows import Example, Pair
from trainer.data.scan import Columns, FileScan, read_rows
from trainer.errors import Problem

MOST_JUDGED = 5_000
_SHOWN_CHARACTERS = 60
_Row = Example | Pair


def describe(files: Sequence[FileScan], columns: Columns, pairs: Indexes, *, most: int) -> list[Problem]:
    """The first contradictions as sentences that show both outputs."""
    return [
        _problem(files, columns, pair, answer_text(_example(one)), answer_text(_example(other)), "asks the same as")
        for pair, one, other in _read(files, columns, pairs[:most])
    ]


def judge_near(
    files: Sequence[FileScan], columns: Columns, pairs: Indexes, labels: Labels, *, most: int
) -> tuple[int, list[Problem]]:
    """How many of the near pairs contradict each other (of the first `MOST_JUDGED`), and the first as sentences."""
    count, places = 0, list[Problem]()
    for pair, one, other in _read(files, columns, pairs[:MOST_JUDGED]):
        classes = [_label(labels, answer_text(_example(row))) for row in (one, other)]
        asked = [_asked(_example(row)) for row in (one, other)]
        if _system(_example(one)) != _system(_example(other)) or _explained(asked, classes):
            continue
        count += 1
        if len(places) < most:
            places.append(_problem(files, columns, pair, classes[0], classes[1], "asks nearly the same as"))
    return count, places


def _read(files: Sequence[FileScan], columns: Columns, pairs: Indexes) -> Iterator[tuple[list[int], _Row, _Row]]:
    rows = read_rows(files, columns, np.ravel(pairs))
    for pair in pairs:
        yield [int(row) for row in pair], next(rows), next(rows)


def _problem(
    files: Sequence[FileScan], columns: Columns, pair: Sequence[int], one: str, other: str, relation: str
) -> Problem:
    path, earlier = (str(files[int(columns.file[row])].path) for row in pair)
    lines = [int(columns.line[row]) for row in pair]
    return Problem(path, lines[0], f"{relation} {earlier}:{lines[1]} but answers {_short(one)}, not {_short(other)}")


def _explained(asked: Sequence[str], classes: Sequence[str]) -> bool:
    inputs, outputs = ([set(words(normalised(text))) for text in texts] for texts in (asked, classes))
    own = [outputs[0] - outputs[1], outputs[1] - outputs[0]]
    return any(own) and own[0] <= inputs[0] - inputs[1] and own[1] <= inputs[1] - inputs[0]


def _label(labels: Labels, answer: str) -> str:
    return labels.of(answer, json_object(answer)) or answer


def _example(row: _Row) -> Example:
    return row.preferred if isinstance(row, Pair) else row


def _asked(example: Example) -> str:
    return "\n".join(m.content for m in example.messages[: example.answer_index] if m.role != "system")


def _system(example: Example) -> str:
    return "\n".join(normalised(m.content) for m in example.messages if m.role == "system")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return f'"{flat}"' if len(flat) <= _SHOWN_CHARACTERS else f'"{flat[: _SHOWN_CHARACTERS - 3]}..."'
