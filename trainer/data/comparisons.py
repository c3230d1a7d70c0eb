"""Rows held against each other: copies, near copies, rows that two files share, and rows that contradict each other.

All of it works on columns of hashes. A result is an array of pairs of row indexes: a row, and the earlier row that it
is held against.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.data.clusters import U64, Indexes
from trainer.data.scan import Columns

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
