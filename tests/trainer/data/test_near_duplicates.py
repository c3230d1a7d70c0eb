import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import chat
from trainer.data import near_duplicates
from trainer.data.near_duplicates import (
    NearDuplicateIndex,
    fingerprint,
    hash64,
    near_duplicate_clusters,
    normalised,
    shingles,
)
from trainer.data.schema import parse_row

WORDS = [f"{first}{second}" for first in "bcdfghklmn" for second in ("ar", "el", "ido", "ost", "um")]


def clustered(texts: Sequence[str], similarity: float = 0.8) -> list[int]:
    return near_duplicate_clusters([shingles(text) for text in texts], [hash64(text) for text in texts], similarity)


def likeness(one: str, other: str) -> float:
    mine, others = shingles(one), shingles(other)
    return len(mine & others) / len(mine | others)


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join), max_size=12), st.randoms())
@settings(max_examples=15, deadline=None)
def test_what_is_alike_is_joined_and_what_is_not_is_apart(texts: list[str], dice: random.Random) -> None:
    copies = [" ".join([*text.split(), dice.choice(WORDS)]) for text in texts]
    labels = clustered([*texts, *texts, *copies])
    assert labels[: len(texts)] == labels[len(texts) : 2 * len(texts)]
    for one, first in enumerate(texts):
        for other, second in enumerate([*texts, *texts, *copies]):
            if likeness(first, second) > 0.95:
                assert labels[one] == labels[other]
    if not any(0.5 < likeness(a, b) < 1 for a in [*texts, *copies] for b in [*texts, *copies]):
        assert len(set(labels)) == len({*map(shingles, [*texts, *copies])})


def test_thousands_of_rows_are_found_again_by_their_near_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_BATCH_ROWS", 64)
    dice = random.Random(7)
    texts = [" ".join(dice.choices([f"w{n}" for n in range(5000)], k=40)) for _ in range(1000)]
    copies = [text.rsplit(" ", 1)[0] + " changed" for text in texts]
    labels = clustered([*texts, *copies])
    assert labels[:1000] == labels[1000:]
    assert len(set(labels)) == 1000


def test_the_pairs_of_an_index_hold_its_clusters_together() -> None:
    texts = ["a b c d e f g h i j k l m n o p q r s t u v w x y z " * 2 + str(number) for number in range(5)]
    with NearDuplicateIndex() as index:
        for text in [*texts, "other"]:
            index.add(shingles(text))
        labels, pairs = index.clusters(np.array([hash64(text) for text in [*texts, "other"]], np.uint64), 0.8)
    assert len(set(labels[:5])) == 1
    assert labels[5] not in labels[:5]
    assert {int(row) for row in pairs.ravel()} == {0, 1, 2, 3, 4}


def test_no_rows_are_no_clusters() -> None:
    assert clustered([]) == []


@pytest.mark.parametrize(("one", "other"), [("Ｗhere  is\nit?", "where is it?"), ("STRASSE", "straße")])
def test_case_width_and_spacing_do_not_count(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


def test_scripts_without_spaces_are_compared_by_character() -> None:
    assert {"你", "好", "你 好 吗"} <= shingles("你好吗")
    assert shingles("?!") == {"?!"}


def test_a_long_system_message_does_not_make_rows_alike() -> None:
    system = {"role": "system", "content": "Be kind and brief. " * 40}
    rows = [chat("Where is my parcel?"), chat("Cancel the order.")]
    marks = [fingerprint(parse_row(1, {"messages": [system, *row["messages"]]})) for row in rows]  # type: ignore[misc]
    assert not marks[0].shingles & marks[1].shingles
    assert marks[0].asked != fingerprint(parse_row(1, rows[0])).asked
    assert marks[0].near == fingerprint(parse_row(1, rows[0])).near
