"""Several files in one recipe: mixed by weight, and read from CSV, Parquet and datasets of the hub."""

import json
import sys
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.trainer import commands
from tests.trainer.commands import run
from tests.trainer.conftest import WriteJsonl, chat, pair
from trainer.data.schema import Example
from trainer.data.sources import local_rows
from trainer.errors import DataError, RunError
from trainer.training.dataset import load_data
from trainer.training.recipe import Recipe, read_recipe


def recipe(folder: Path, train: object, **fields: object) -> Recipe:
    return Recipe.model_validate({"name": "x", "train": train, "directory": folder, "valid_fraction": 0.0, **fields})


def asked(rows: tuple[Example, ...]) -> list[str]:
    return [row.messages[0].content for row in rows]


def test_files_are_mixed_by_their_weights(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(*(chat(f"one {n}?") for n in range(10)), name="one.jsonl")
    jsonl(*(chat(f"two {n}?") for n in range(10)), name="two.jsonl")
    train = ["one.jsonl", {"path": "two.jsonl", "weight": 2.5}]
    loaded = load_data(recipe(tmp_path, train))
    counts = Counter(asked(loaded.train.rows))
    assert {counts[f"one {n}?"] for n in range(10)} == {1}
    assert sorted(counts[f"two {n}?"] for n in range(10)) == [2] * 5 + [3] * 5
    assert loaded == load_data(recipe(tmp_path, train))
    other = load_data(recipe(tmp_path, train, seed=1))
    assert Counter(asked(other.train.rows)) != counts, "the fraction is drawn by the seed"
    assert loaded.train.sha256 != load_data(recipe(tmp_path, ["one.jsonl", "two.jsonl"])).train.sha256


def test_a_weight_below_one_trains_on_a_part_of_the_rows(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(*(chat(f"question {n}?") for n in range(40)))
    rows = asked(load_data(recipe(tmp_path, [{"path": "train.jsonl", "weight": 0.25}])).train.rows)
    assert len(set(rows)) == len(rows) == 10
    with pytest.raises(DataError, match=r"its weight 0\.01 leaves no row; raise it"):
        load_data(recipe(tmp_path, [{"path": "train.jsonl", "weight": 0.01}]))


def test_rows_are_held_out_of_all_files_and_no_cluster_is_on_both_sides(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(*(chat(f"question {n}?") for n in range(40)), name="one.jsonl")
    jsonl(*(chat(f"question {n}?") for n in range(20, 60)), name="two.jsonl")
    loaded = load_data(recipe(tmp_path, ["one.jsonl", "two.jsonl"], valid_fraction=0.2))
    train, valid = set(asked(loaded.train.rows)), set(asked(loaded.valid.rows))
    assert not train & valid
    assert len(valid) == 12
    assert len(loaded.train.rows) + len(loaded.valid.rows) == 80


def test_a_recipe_names_files_in_a_list(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "x"\ntrain = ["a.jsonl", {path = "b.csv", weight = 2}]\n', encoding="utf-8")
    read = read_recipe(path)
    assert [(file.path, file.weight) for file in read.train_files] == [("a.jsonl", 1), ("b.csv", 2)]
    document = read.model_dump(mode="json", exclude_unset=True)
    assert Recipe.model_validate({**document, "directory": tmp_path}).sha256 == read.sha256, "as a sweep makes a trial"


def test_csv_and_parquet_are_read_as_the_rows_that_they_hold(tmp_path: Path) -> None:
    columns = {"question": ["Where is it?", "Why?"], "answer": ["On its way.", "Snow."]}
    (tmp_path / "rows.csv").write_text("question,answer\nWhere is it?,On its way.\nWhy?,Snow.\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    loaded = [load_data(recipe(tmp_path, name), data_dir=tmp_path / "var") for name in ("rows.csv", "rows.parquet")]
    for data in loaded:
        (file,) = data.train.files
        assert [(row.messages[0].content, row.messages[1].content) for row in file.rows] == [
            ("Where is it?", "On its way."),
            ("Why?", "Snow."),
        ]
        assert file.path.parent == tmp_path / "var" / "datasets"
    assert loaded[0].train.sha256 == loaded[1].train.sha256


def test_conversations_and_tables_are_mixed_by_their_weights(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(*(chat(f"one {n}?") for n in range(10)), name="one.jsonl")
    table(tmp_path / "two.csv", *(f"two {n}?,Yes." for n in range(10)))
    train = [{"path": "one.jsonl", "weight": 0.5}, {"path": "two.csv", "weight": 2.0}]
    loaded = load_data(recipe(tmp_path, train), data_dir=tmp_path / "var")
    assert [(file.name, len(file.rows), file.weight) for file in loaded.train.files] == [
        ("one.jsonl", 5, 0.5),
        ("two.csv", 20, 2.0),
    ]
    assert Counter(asked(loaded.train.rows)).most_common(1)[0][1] == 2


BAD_FILES: dict[str, tuple[bytes | None, str]] = {
    "empty.jsonl": (b"", "empty.jsonl: has no rows"),
    "blank.jsonl": (b"\n \n", "blank.jsonl: has no rows"),
    "empty.csv": (b"", "empty.csv: has no rows"),
    "columns.csv": (b"question,answer\n", "columns.csv: has no rows below its columns; add some, or leave the file"),
    "latin.jsonl": (b'{"messages": "\xe9"}\n', "latin.jsonl:1: is not UTF-8; save it as UTF-8"),
    "cut.parquet": (b"PAR1xx", "cut.parquet: is not a complete Parquet file"),
    "missing.csv": (None, "missing.csv: cannot be read (No such file or directory); check the path"),
    "pairs.jsonl": (json.dumps(pair()).encode(), "pairs.jsonl:1: is a preference pair in a file of conversations"),
}


@pytest.mark.parametrize(("name", "content", "said"), [(name, *bad) for name, bad in BAD_FILES.items()], ids=BAD_FILES)
def test_one_bad_file_of_several_stops_the_run_and_is_named(
    name: str, content: bytes | None, said: str, jsonl: WriteJsonl, tmp_path: Path
) -> None:
    jsonl(*(chat(f"one {n}?") for n in range(10)), name="one.jsonl")
    table(tmp_path / "two.csv", "Where is it?,On its way.")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "recipe.toml").write_text(
        f'name = "x"\ntrain = ["one.jsonl", {{path = "two.csv", weight = 2}}, {{path = "{name}", weight = 0.5}}]\n'
    )
    refused = run(commands.train, tmp_path / "recipe.toml", "--data-dir", tmp_path / "var")
    assert refused.exit_code == 2
    assert "the data has 1 problem; fix it and run again" in refused.stderr
    assert f"{tmp_path}/{said}" in refused.stderr.replace("\n", " ")
    assert not (tmp_path / "var" / "runs").exists()
    assert [path.name[:4] for path in (tmp_path / "var" / "datasets").iterdir()] == ["two-"], "nothing half-made"


def table(path: Path, *rows: str) -> None:
    """Write a CSV file of questions and answers."""
    path.write_text("".join(f"{row}\n" for row in ("question,answer", *rows)), encoding="utf-8")


def test_a_table_whose_columns_say_nothing_names_them_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("left,right\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.csv:\d+: has left, right, of which none is known to ask or to answer"):
        load_data(recipe(tmp_path, "rows.csv"), data_dir=tmp_path / "var")
    assert not list((tmp_path / "var" / "datasets").iterdir())


def test_a_hub_dataset_is_taken_from_the_cache_only_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not in the local hub cache; set HF_HUB_OFFLINE=0 to let the run fetch it"):
        local_rows("hf://datasets/nobody-here/nothing-here/train.parquet", tmp_path, tmp_path)
    with pytest.raises(RunError, match="names no file of a dataset; write hf://datasets/OWNER/NAME/FILE"):
        local_rows("hf://nobody/nothing", tmp_path, tmp_path)


def test_a_missing_hub_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match="needs the package huggingface-hub; install it: pip install"):
        local_rows("hf://datasets/owner/name/train.jsonl", tmp_path, tmp_path)
