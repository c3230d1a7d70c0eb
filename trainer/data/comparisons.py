"""Rows held against each other: copies, near copies, rows that two files share, and rows that contradict each other.

All of it works on columns of hashes. A result is an array of pairs of row indexes: a row, and the earlier row that it
is held against.

Rows that teach opposite things: the same input answered differently, or a near one put into another class.

Near inputs of unlike classes are read again before they are named: when the words that the classes differ in are the
words that the inputs differ in, each answer is right for its input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.data.labels import Labels, json_object
from trainer.data.near_duplicates import U64, Indexes, answer_text, normalised, words
from trainer.data.scan import Columns, FileScan, read_rows
from trainer.data.schema import Example, Pair
from trainer.errors import Problem

_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Comparisons:
    """Pairs of rows: `copies` and `near_copies` within one file, `shared…` between two, and contradictions.

    `clusters` has the cluster of each row. `same_asked` are rows of one input and unlike outputs, `preferences` pairs
    that prefer what another rejects, `near_asked` rows of near inputs and unlike classes, yet to be read and judged.
    """

    clusters: Indexes
    copies: Indexes
    near_copies: Indexes
    shared: Indexes
    shared_near: Indexes
    shared_group: Indexes
    same_asked: Indexes
    preferences: Indexes
    near_asked: Indexes


def compare(columns: Columns, clusters: Indexes, joined: Indexes) -> Comparisons:
    """Compare all rows; `joined` are the pairs of near rows that hold the clusters together."""
    copies = _within(columns.row, columns.file)
    near_copies = _without(_within(clusters.astype(np.uint64), columns.file), copies)
    shared = _between(columns.row, columns.file)
    shared_near = _without(_between(clusters.astype(np.uint64), columns.file), shared)
    grouped = np.flatnonzero(columns.group)
    shared_group = grouped[_between(columns.group[grouped], columns.file[grouped])]
    return Comparisons(
        clusters,
        copies,
        near_copies,
        shared,
        shared_near,
        shared_group,
        _unlike_outputs(columns),
        _turned_preferences(columns),
        _unlike_classes(columns, joined),
    )


def same_answers(columns: Columns, clusters: Indexes) -> Indexes:
    """Rows of one cluster and one output, with the first row of them."""
    return _within(_mixed(clusters.astype(np.uint64), columns.answer ^ columns.rejected), columns.file)


def _within(keys: U64, file: U64) -> Indexes:
    """Rows whose key an earlier row of the same file has, with the first such row."""
    mixed = (keys ^ (file + np.uint64(1)) * _MIX) * _MIX
    first = _firsts(mixed)
    rows = np.flatnonzero(first != np.arange(len(first)))
    return np.stack((rows, first[rows]), axis=1)


def _between(keys: U64, file: U64) -> Indexes:
    """Rows whose key a row of an earlier file has, with the first such row."""
    first = _firsts(keys)
    rows = np.flatnonzero(file[first] < file)
    return np.stack((rows, first[rows]), axis=1)


def _firsts(keys: U64) -> Indexes:
    """For each row the first row of the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    firsts: Indexes = first[inverse]
    return firsts


def _without(pairs: Indexes, others: Indexes) -> Indexes:
    return pairs[~np.isin(pairs[:, 0], others[:, 0])]


def _unlike_outputs(columns: Columns) -> Indexes:
    """Conversations of one input whose output is unlike the first one's; copies of such an output count once."""
    rows = np.flatnonzero(columns.rejected == 0)
    first = rows[_firsts(columns.asked[rows])]
    unlike = rows[columns.answer[rows] != columns.answer[first]]
    first = first[columns.answer[rows] != columns.answer[first]]
    _, kept = np.unique(_mixed(columns.asked, columns.answer)[unlike], return_index=True)
    pairs: Indexes = np.stack((unlike, first), axis=1)[np.sort(kept)]
    return pairs


def _turned_preferences(columns: Columns) -> Indexes:
    """Pairs that prefer an output which an earlier pair of the same input rejects, or the other way round."""
    rows = np.flatnonzero(columns.rejected)
    preferred = _mixed(columns.asked, columns.answer)[rows]
    rejected = _mixed(columns.asked, columns.rejected)[rows]
    found = []
    for mine, others in ((preferred, rejected), (rejected, preferred)):
        values, first = np.unique(others, return_index=True)
        at = np.minimum(np.searchsorted(values, mine), max(len(values) - 1, 0))
        earlier = np.flatnonzero((values[at] == mine) & (first[at] < np.arange(len(mine)))) if len(values) else at
        found.append(np.stack((rows[earlier], rows[first[at[earlier]]]), axis=1))
    turned = np.concatenate(found)
    _, kept = np.unique(turned[:, 0], return_index=True)
    pairs: Indexes = turned[kept]
    return pairs


def _unlike_classes(columns: Columns, joined: Indexes) -> Indexes:
    """Rows of near inputs whose class is unlike that of an earlier one; each row is held against one other only."""
    one, other = np.maximum(joined[:, 0], joined[:, 1]), np.minimum(joined[:, 0], joined[:, 1])
    known = (columns.label[one] != 0) & (columns.label[other] != 0)
    unlike = known & (columns.label[one] != columns.label[other]) & (columns.near[one] != columns.near[other])
    pairs: Indexes = np.stack((one, other), axis=1)[unlike]
    return pairs[np.unique(pairs[:, 0], return_index=True)[1]]


def _mixed(one: U64, other: U64) -> U64:
    mixed: npt.NDArray[np.uint64] = (one * _MIX) ^ other
    return mixed


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
