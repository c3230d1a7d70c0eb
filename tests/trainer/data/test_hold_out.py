import string
from pathlib import Path

import pytest

from tests.trainer.conftest import WriteJsonl, chat
from trainer.errors import DataError
from trainer.training.dataset import load_data
from trainer.training.recipe import Recipe


def recipe(folder: Path, **fields: object) -> Recipe:
    return Recipe.model_validate({"name": "x", "train": "train.jsonl", "directory": folder, **fields})


def test_the_split_is_by_seed_and_loses_nothing(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(*(chat(f"question {i}?") for i in range(40)))
    one, again, other = (load_data(recipe(tmp_path, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one.valid.rows != other.valid.rows
    assert (len(one.train.rows), len(one.valid.rows)) == (36, 4)
    assert sorted(e.line for e in (*one.train.rows, *one.valid.rows)) == list(range(1, 41))


def test_copies_of_a_row_stay_on_one_side(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(*(chat(f"question {i % 5}?") for i in range(40)))
    split = load_data(recipe(tmp_path, valid_fraction=0.4))
    train, valid = ({example.digest for example in part.rows} for part in (split.train, split.valid))
    assert not train & valid
    assert len(valid) == 2


@pytest.mark.parametrize(("rows", "fraction", "held_out"), [(10, 0.0, 0), (1, 0.5, 0), (2, 0.01, 1)])
def test_something_is_always_left_to_train_on(
    jsonl: WriteJsonl, tmp_path: Path, rows: int, fraction: float, held_out: int
) -> None:
    jsonl(*(chat(f"question {i}?") for i in range(rows)))
    assert len(load_data(recipe(tmp_path, valid_fraction=fraction)).valid.rows) == held_out


def test_rows_shared_with_a_validation_file_are_warned_about(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(chat("a?"), chat("b?"))
    jsonl(chat("b?"), name="valid.jsonl")
    (warning,) = load_data(recipe(tmp_path, valid="valid.jsonl")).warnings
    assert warning.name == "leakage"
    assert str(*warning.places) == f"{tmp_path}/valid.jsonl:1: is also in {tmp_path}/train.jsonl:2"


def test_problems_of_both_files_are_told_together(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl("{")
    jsonl(chat(), "[]", name="valid.jsonl")
    with pytest.raises(DataError) as caught:
        load_data(recipe(tmp_path, valid="valid.jsonl"))
    assert [Path(problem.file).name for problem in caught.value.problems] == ["train.jsonl", "valid.jsonl"]


def test_near_copies_stay_on_one_side(jsonl: WriteJsonl, tmp_path: Path) -> None:
    texts = [" ".join(f"{word}{number}" for word in string.ascii_letters) for number in range(10)]
    jsonl(*(chat(f"{text} {extra}") for text in texts for extra in ("one", "two", "three")))
    split = load_data(recipe(tmp_path, valid_fraction=0.2))
    train, valid = (
        {example.messages[0].content.rsplit(" ", 1)[0] for example in part.rows} for part in (split.train, split.valid)
    )
    assert not train & valid
    assert len(split.valid.rows) == 6


@pytest.mark.parametrize("seed", [0, 38, 42, 118])
def test_a_large_cluster_is_never_held_out(jsonl: WriteJsonl, tmp_path: Path, seed: int) -> None:
    text = " ".join(f"word{number}" for number in range(60))
    jsonl(*(chat(f"{text} {n}") for n in range(440)), *(chat(f"other{n} thing{n} here{n}") for n in range(40)))
    split = load_data(recipe(tmp_path, seed=seed))
    assert 0 < len(split.valid.rows) <= 48
    two = recipe(tmp_path, seed=seed, train="two.jsonl")
    jsonl(*(chat(f"{text} {n}") for n in range(440)), chat("one more"), name="two.jsonl")
    assert [row.messages[0].content for row in load_data(two).valid.rows] == ["one more"]
    assert not [warning for warning in load_data(two).warnings if warning.name == "held_out"]


def test_a_split_that_must_hold_out_more_than_asked_says_so(jsonl: WriteJsonl, tmp_path: Path) -> None:
    texts = [" ".join(f"{word}{number}" for number in range(60)) for word in ("late", "lost")]
    jsonl(*(chat(f"{text} {n}") for text in texts for n in range(20)))
    split = load_data(recipe(tmp_path))
    assert len(split.valid.rows) == 20
    (warning,) = (one for one in split.warnings if one.name == "held_out")
    assert str(warning).startswith("held_out: 20 different rows are held out instead of 4, because every cluster")
