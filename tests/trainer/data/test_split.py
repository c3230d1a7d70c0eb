import json
import random
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import WriteJsonl, chat
from trainer.data.schema import row_id
from trainer.data.split import SplitPlan, assign, join_groups, write_split
from trainer.errors import DataError, RunError


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 6), st.integers(1, 3)), min_size=1, max_size=60),
    st.integers(0, 99),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5), (0.9, 0.1)]),
)
@settings(deadline=None)
def test_no_cluster_and_no_group_is_in_two_parts_and_nothing_is_lost(
    drawn: list[tuple[int, int, int]], seed: int, shares: tuple[float, ...]
) -> None:
    clusters, groups, labels = (np.array(column) for column in zip(*drawn, strict=True))
    rows = np.arange(len(drawn), dtype=np.uint64) * np.uint64(7919)
    together = join_groups(clusters, groups.astype(np.uint64))
    parts = assign(rows, labels.astype(np.uint64), together, shares, seed)
    assert len(parts) == len(drawn)
    assert set(parts.tolist()) <= set(range(len(shares)))
    for cluster in set(clusters.tolist()):
        assert len(set(parts[clusters == cluster].tolist())) == 1
    for group in set(groups.tolist()) - {0}:
        assert len(set(parts[groups == group].tolist())) == 1
    shuffled = list(range(len(drawn)))
    random.Random(seed).shuffle(shuffled)
    again = assign(rows[shuffled], labels[shuffled].astype(np.uint64), together[shuffled], shares, seed)
    assert again.tolist() == parts[shuffled].tolist()


@given(st.lists(st.integers(1, 4), min_size=100, max_size=300), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_classes_keep_their_shares_when_rows_stand_alone(classes: list[int], seed: int) -> None:
    labels = np.array(classes, np.uint64)
    rows = np.arange(len(classes), dtype=np.uint64)
    parts = assign(rows, labels, np.arange(len(classes)), (0.8, 0.1, 0.1), seed)
    for label, count in Counter(classes).items():
        held_out = int(((labels == label) & (parts == 2)).sum())
        assert abs(held_out - 0.1 * count) <= 1


def rows() -> list[dict[str, object]]:
    base = [" ".join(f"{word}{number}" for word in string.ascii_letters) for number in range(60)]
    return [
        chat(f"{text} {extra}", "yes" if n % 3 else "no") for n, text in enumerate(base) for extra in ("one", "two")
    ]


def ids(path: Path) -> set[str]:
    return {row_id(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()}


def test_a_split_depends_on_the_rows_and_the_seed_and_not_on_their_order(jsonl: WriteJsonl, tmp_path: Path) -> None:
    shuffled = rows()
    random.Random(3).shuffle(shuffled)
    one, other = jsonl(*rows(), name="a.jsonl"), jsonl(*shuffled, name="b.jsonl")
    parts = [
        write_split(path, tmp_path / str(n), SplitPlan(seed=seed))
        for n, (path, seed) in enumerate([(one, 1), (other, 1), (one, 2)])
    ]
    test_ids = [ids(part.paths["test"]) for part in parts]
    assert test_ids[0] == test_ids[1] != test_ids[2]
    assert parts[0].rows == {"train": 96, "valid": 12, "test": 12}
    assert (parts[0].clusters, parts[0].largest_cluster) == (60, 2)
    assert parts[0].classes["valid"] == {"yes": 8, "no": 4}
    assert set().union(*(ids(path) for path in parts[0].paths.values())) == ids(one)


def test_rows_are_written_as_they_stand(jsonl: WriteJsonl, tmp_path: Path) -> None:
    lines = ['{"note": 1.50,  "messages": ' + json.dumps(chat(f"q{n}")["messages"]) + "}" for n in range(20)]
    parts = write_split(jsonl(*lines), tmp_path, SplitPlan(valid=0, test=0.2))
    written = [line for path in parts.paths.values() for line in path.read_text().splitlines()]
    assert sorted(written) == sorted(lines)
    assert parts.paths.keys() == {"train", "test"}


def test_what_cannot_be_split_is_refused_and_nothing_is_written(jsonl: WriteJsonl, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="leaves no row for valid: 6 rows make 1 clusters of near-duplicates and groups"
    ):
        write_split(jsonl(*[chat()] * 6), tmp_path / "parts", SplitPlan())
    with pytest.raises(DataError, match="is not JSON"):
        write_split(jsonl(chat(), "{"), tmp_path / "parts", SplitPlan())
    assert not (tmp_path / "parts").exists()
    (tmp_path / "train.test.jsonl").write_text("precious")
    with pytest.raises(RunError, match=r"train\.test\.jsonl exists already; choose another --out-dir or pass --force"):
        write_split(jsonl(*rows()), tmp_path, SplitPlan())
    assert (tmp_path / "train.test.jsonl").read_text() == "precious"
