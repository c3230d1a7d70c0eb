"""`turntable train` refuses the red findings of `turntable data check`, in the same words, unless they are accepted."""

from pathlib import Path

import pytest

from tests.trainer.conftest import WriteJsonl, chat, pair
from trainer.data.findings import ACCEPTABLE, AMBER, RED
from trainer.data.lint import LintOptions, lint_files
from trainer.errors import DataError
from trainer.training.dataset import load_data
from trainer.training.recipe import Recipe

SECRET = "AKIAIOSFODNN7EXAMPLE"
TURNED = pair()
TURNED["preferred_output"], TURNED["non_preferred_output"] = TURNED["non_preferred_output"], TURNED["preferred_output"]
RED_ROWS: dict[str, list[dict[str, object]]] = {
    "api_key": [chat("key?", SECRET)],
    "password": [chat("password = hunter2!x9")],
    "private_key": [chat("-----BEGIN PRIVATE KEY-----\nMIIB")],
    "rated_bad": [chat("bad?", is_good=False)],
    "conflicting_preferences": [pair(), TURNED],
    "conflicting_scores": [pair(score_chosen=1, score_rejected=2)],
}


def recipe(folder: Path, **fields: object) -> Recipe:
    return Recipe.model_validate({"name": "x", "train": "train.jsonl", "directory": folder, **fields})


@pytest.mark.parametrize("name", ACCEPTABLE)
def test_what_is_red_in_a_check_stops_training_in_the_same_words(jsonl: WriteJsonl, tmp_path: Path, name: str) -> None:
    is_pairs = "preferred_output" in RED_ROWS[name][0]
    good = [pair(f"question {n}?") if is_pairs else chat(f"question {n}?") for n in range(4)]
    path = jsonl(*good, *RED_ROWS[name])
    wanted = recipe(tmp_path, method="dpo" if is_pairs else "lora", valid_fraction=0.3)
    (red,) = (finding for finding in lint_files([path], LintOptions()).findings if finding.grade == RED)
    assert red.name == name
    with pytest.raises(DataError) as caught:
        load_data(wanted)
    first, *places = caught.value.problems
    assert first.message == f"{red} (to train on them all the same: --despite-data REASON)"
    assert tuple(places) == red.places
    accepted = load_data(wanted, "the rows are known and wanted")
    assert accepted.despite_document == {"reason": "the rows are known and wanted", "findings": {name: red.count}}
    assert [finding.name for finding in accepted.accepted] == [name]
    assert len(accepted.train.rows) + len(accepted.valid.rows) == len(good) + len(RED_ROWS[name])


def test_a_row_that_cannot_be_trained_on_is_not_accepted(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(chat(), "{")
    with pytest.raises(DataError, match=r"train\.jsonl:2: is not JSON"):
        load_data(recipe(tmp_path), "whatever the reason")


def test_no_reason_is_no_override(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(chat(), chat("key?", SECRET))
    with pytest.raises(DataError, match="--despite-data REASON"):
        load_data(recipe(tmp_path), "  ")


def test_what_is_amber_in_a_check_is_a_warning(jsonl: WriteJsonl, tmp_path: Path) -> None:
    rows = [*(chat(f"question {n}?") for n in range(6)), chat("question 0?"), chat("mail?", "a@b.com")]
    path = jsonl(*rows)
    amber = [one for one in lint_files([path], LintOptions()).findings if one.grade == AMBER and one.name != "size"]
    assert {one.name for one in amber} == {"duplicates", "email"}
    assert list(load_data(recipe(tmp_path)).warnings) == amber
