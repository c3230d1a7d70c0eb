"""Compare rows: duplicates, near-duplicates, leakage between files, contradictions and conflicting preferences.

Comparisons work on columns of hashes. A result is an array of pairs of row indexes: a row, and the earlier row that it
was compared with. Near-duplicates of different classes are read again before they are reported: when the words in which
the classes differ are the words in which the inputs differ, each answer is right for its input.
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
MAX_JUDGED = 5_000
_SHOWN_CHARACTERS = 60
_SAME_INPUT, _NEAR_INPUT = "has the same input as", "has nearly the same input as"
_Row = Example | Pair


@dataclass(frozen=True)
class Comparisons:
    """Pairs of row indexes: duplicates within one file, leakage between two, and contradictions.

    `clusters` has the near-duplicate cluster of each row. `contradictions` have the same input and different outputs,
    `conflicting_preferences` prefer an answer that another pair rejects, `near_candidates` are near-duplicates of
    different classes, to be read and judged.
    """

    clusters: Indexes
    duplicates: Indexes
    near_duplicates: Indexes
    leakage: Indexes
    near_leakage: Indexes
    group_leakage: Indexes
    contradictions: Indexes
    conflicting_preferences: Indexes
    near_candidates: Indexes


def compare(columns: Columns, clusters: Indexes, joined: Indexes) -> Comparisons:
    """Compare all rows; `joined` are the pairs of near-duplicates that connect the clusters."""
    duplicates = _within(columns.row, columns.file)
    near_duplicates = _without(_within(clusters.astype(np.uint64), columns.file), duplicates)
    leakage = _between(columns.row, columns.file)
    near_leakage = _without(_between(clusters.astype(np.uint64), columns.file), leakage)
    grouped = np.flatnonzero(columns.group)
    group_leakage = grouped[_between(columns.group[grouped], columns.file[grouped])]
    return Comparisons(
        clusters,
        duplicates,
        near_duplicates,
        leakage,
        near_leakage,
        group_leakage,
        _different_outputs(columns),
        _conflicting_preferences(columns),
        _different_classes(columns, joined),
    )


def same_answers(columns: Columns, clusters: Indexes) -> Indexes:
    """Return rows with the same cluster and output as an earlier row of their file, with the first such row."""
    return _within(_mixed(clusters.astype(np.uint64), columns.answer ^ columns.rejected), columns.file)


def _within(keys: U64, file: U64) -> Indexes:
    """Return rows with the key of an earlier row of the same file, with the first such row."""
    mixed = (keys ^ (file + np.uint64(1)) * _MIX) * _MIX
    first = _firsts(mixed)
    rows = np.flatnonzero(first != np.arange(len(first)))
    return np.stack((rows, first[rows]), axis=1)


def _between(keys: U64, file: U64) -> Indexes:
    """Return rows with the key of a row of an earlier file, with the first such row."""
    first = _firsts(keys)
    rows = np.flatnonzero(file[first] < file)
    return np.stack((rows, first[rows]), axis=1)


def _firsts(keys: U64) -> Indexes:
    """Return for each row the first row with the same key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    firsts: Indexes = first[inverse]
    return firsts


def _without(pairs: Indexes, others: Indexes) -> Indexes:
    return pairs[~np.isin(pairs[:, 0], others[:, 0])]


def _different_outputs(columns: Columns) -> Indexes:
    """Return conversations whose output differs from the first one for the same input; equal outputs count once."""
    rows = np.flatnonzero(columns.rejected == 0)
    first = rows[_firsts(columns.asked[rows])]
    different = rows[columns.answer[rows] != columns.answer[first]]
    first = first[columns.answer[rows] != columns.answer[first]]
    _, kept = np.unique(_mixed(columns.asked, columns.answer)[different], return_index=True)
    pairs: Indexes = np.stack((different, first), axis=1)[np.sort(kept)]
    return pairs


def _conflicting_preferences(columns: Columns) -> Indexes:
    """Return pairs that prefer an output which an earlier pair with the same input rejects, or vice versa."""
    rows = np.flatnonzero(columns.rejected)
    preferred = _mixed(columns.asked, columns.answer)[rows]
    rejected = _mixed(columns.asked, columns.rejected)[rows]
    found = []
    for mine, others in ((preferred, rejected), (rejected, preferred)):
        values, first = np.unique(others, return_index=True)
        at = np.minimum(np.searchsorted(values, mine), max(len(values) - 1, 0))
        earlier = np.flatnonzero((values[at] == mine) & (first[at] < np.arange(len(mine)))) if len(values) else at
        found.append(np.stack((rows[earlier], rows[first[at[earlier]]]), axis=1))
    conflicts = np.concatenate(found)
    _, kept = np.unique(conflicts[:, 0], return_index=True)
    pairs: Indexes = conflicts[kept]
    return pairs


def _different_classes(columns: Columns, joined: Indexes) -> Indexes:
    """Return near-duplicates whose class differs from that of an earlier row; each row is in one pair only."""
    one, other = np.maximum(joined[:, 0], joined[:, 1]), np.minimum(joined[:, 0], joined[:, 1])
    known = (columns.label[one] != 0) & (columns.label[other] != 0)
    different = known & (columns.label[one] != columns.label[other]) & (columns.near[one] != columns.near[other])
    pairs: Indexes = np.stack((one, other), axis=1)[different]
    return pairs[np.unique(pairs[:, 0], return_index=True)[1]]


def _mixed(one: U64, other: U64) -> U64:
    mixed: npt.NDArray[np.uint64] = (one * _MIX) ^ other
    return mixed


def describe(files: Sequence[FileScan], columns: Columns, pairs: Indexes, *, limit: int) -> list[Problem]:
    """Return the first contradictions as sentences with both outputs."""
    return [
        _problem(
            files, columns, pair, answer_text(_example(one)), answer_text(_example(other)), "has the same input as"
        )
        for pair, one, other in _read(files, columns, pairs[:limit])
    ]


def judge_near(
    files: Sequence[FileScan], columns: Columns, pairs: Indexes, labels: Labels, *, limit: int
) -> tuple[int, list[Problem]]:
    """Count the contradictions among near-duplicates (of the first `MAX_JUDGED`); returns the first as sentences."""
    count, places = 0, list[Problem]()
    for pair, one, other in _read(files, columns, pairs[:MAX_JUDGED]):
        classes = [_label(labels, answer_text(_example(row))) for row in (one, other)]
        asked = [_asked(_example(row)) for row in (one, other)]
        if _system(_example(one)) != _system(_example(other)) or _explained(asked, classes):
            continue
        count += 1
        if len(places) < limit:
            places.append(_problem(files, columns, pair, classes[0], classes[1], _NEAR_INPUT))
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
