"""A deletion request is answered from the runs that are named, and the answer says where it looked."""

import json
from pathlib import Path

import pytest

from tests.trainer import commands
from tests.trainer.commands import run
from trainer.errors import RunError
from trainer.training.lineage import find_row_uses

ROW = "ab" * 32


def write_run(folder: Path, row: str = ROW) -> None:
    """What a finished run leaves for such a question."""
    folder.mkdir(parents=True)
    seen = {"row_id": row, "part": "train", "file": "train.jsonl", "line": 7}
    (folder / "rows.jsonl").write_text(f"{json.dumps(seen)}\n", encoding="utf-8")
    (folder / "training.json").write_text(json.dumps({"name": folder.name, "digest": "cd" * 32}), encoding="utf-8")


def test_runs_outside_the_data_directory_are_found_where_their_folder_is_named(tmp_path: Path) -> None:
    data_dir, elsewhere = tmp_path / "var", tmp_path / "elsewhere"
    write_run(data_dir / "runs" / "here")
    write_run(elsewhere / "deep" / "there")
    assert [one.name for one in find_row_uses(ROW, data_dir).found] == ["here"]
    both = find_row_uses(ROW, data_dir, [elsewhere, elsewhere / "deep" / "there"])
    assert [one.name for one in both.found] == ["there", "here"]
    assert both.runs == 2
    with pytest.raises(RunError, match="nowhere is not a folder"):
        find_row_uses(ROW, data_dir, [tmp_path / "nowhere"])


def test_the_answer_says_where_it_looked(tmp_path: Path) -> None:
    data_dir, elsewhere = tmp_path / "var", tmp_path / "elsewhere"
    write_run(elsewhere / "there")
    answered = run(commands.lineage, "row", ROW, "--data-dir", data_dir)
    assert f"no run in {data_dir / 'runs'} used it" in answered.stdout
    assert f"searched 0 runs in {data_dir / 'runs'}; runs in other folders (--runs FOLDER)" in answered.stdout
    found = run(commands.lineage, "row", ROW, "--data-dir", data_dir, "--runs", elsewhere, "--json")
    document = json.loads(found.stdout)
    assert document["searched"] == {"folders": [str(data_dir / "runs"), str(elsewhere)], "runs": 1}
    assert [one["run"] for one in document["runs"]] == ["there"]
