from pathlib import Path

import pytest

from trainer.errors import RunError
from trainer.files import disk, replacing


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(f"half {1 / 0}")
    assert list(path.parent.iterdir()) == []
    with replacing(path) as file:
        file.write("whole")
    assert path.read_text(encoding="utf-8") == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be written \(No space left on device\); free space"), disk(tmp_path):
        Path("/dev/full").write_text("x", encoding="utf-8")


def test_a_place_that_cannot_be_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be written"), replacing(tmp_path / "file" / "report.json"):
        pass
