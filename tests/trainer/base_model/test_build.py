"""The build: deterministic, done once, recoverable."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.base_model import BaseModelError, BuildProgress, Sizes, build_base_model
from trainer.base_model.build import COMPLETE_FILE, recipe_sha256

WEIGHTS = "model.safetensors"


def unexpected(progress: BuildProgress) -> None:
    pytest.fail(f"nothing was to be trained: {progress}")


def test_the_same_seed_gives_the_same_bytes(tiny: Sizes, tiny_model: Path, tmp_path: Path) -> None:
    again = build_base_model(tmp_path / "again", sizes=tiny)
    for name in (WEIGHTS, "tokenizer.json", "config.json"):
        assert (again / name).read_bytes() == (tiny_model / name).read_bytes()


def test_another_seed_gives_other_weights(tiny: Sizes, tiny_model: Path, tmp_path: Path) -> None:
    other = build_base_model(tmp_path / "other", sizes=tiny, seed=1)
    assert (other / WEIGHTS).read_bytes() != (tiny_model / WEIGHTS).read_bytes()


def test_progress_counts_every_step_up_to_the_last(tiny: Sizes, tmp_path: Path) -> None:
    seen: list[BuildProgress] = []
    build_base_model(tmp_path / "model", sizes=tiny, report=seen.append)
    assert [progress.step for progress in seen] == list(range(1, seen[0].steps + 1))
    assert seen[-1].loss < seen[0].loss


def test_a_complete_model_is_not_built_again(tiny: Sizes, tiny_model: Path) -> None:
    before = (tiny_model / WEIGHTS).stat().st_mtime_ns
    assert build_base_model(tiny_model, sizes=tiny, report=unexpected) == tiny_model
    assert (tiny_model / WEIGHTS).stat().st_mtime_ns == before


def test_a_complete_model_is_found_without_importing_torch(tmp_path: Path) -> None:
    (tmp_path / COMPLETE_FILE).write_text(json.dumps({"recipe_sha256": recipe_sha256(Sizes(), 0)}))
    code = (
        "import sys; from pathlib import Path; from trainer.base_model import build_base_model; "
        f"build_base_model(Path({str(tmp_path)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_interrupted_build_leaves_no_model_and_the_next_one_succeeds(tiny: Sizes, tmp_path: Path) -> None:
    def interrupt(progress: BuildProgress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    out = tmp_path / "base-model"
    with pytest.raises(KeyboardInterrupt):
        build_base_model(out, sizes=tiny, report=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == [".base-model.lock"]
    assert (build_base_model(out, sizes=tiny) / WEIGHTS).is_file()


@pytest.mark.parametrize("mark", ["", "{", '{"recipe_sha256": "of an older recipe"}'])
def test_a_directory_without_this_recipes_mark_is_built_anew(mark: str, tiny: Sizes, tmp_path: Path) -> None:
    out = tmp_path / "base-model"
    out.mkdir()
    (out / COMPLETE_FILE).write_text(mark)
    (out / "left-over").touch()
    build_base_model(out, sizes=tiny)
    assert (out / WEIGHTS).is_file()
    assert not (out / "left-over").exists()


def test_two_builders_at_once_train_once(tiny: Sizes, tmp_path: Path) -> None:
    seen: list[BuildProgress] = []
    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(build_base_model, tmp_path / "m", sizes=tiny, report=seen.append) for _ in range(2)]
    assert [build.result() for build in builds] == [tmp_path / "m"] * 2
    assert len(seen) == seen[0].steps


def test_the_recipe_covers_sizes_and_seed(tiny: Sizes) -> None:
    recipes = {recipe_sha256(tiny, 0), recipe_sha256(tiny, 1), recipe_sha256(replace(tiny, layers=2), 0)}
    assert len(recipes) == 3


def test_a_place_that_cannot_be_written_is_one_clear_error(tiny: Sizes, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        BaseModelError, match=r"cannot be written to .*/file/base-model .*choose another data directory"
    ):
        build_base_model(tmp_path / "file" / "base-model", sizes=tiny)


def test_the_program_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "trainer.base_model", "--out", str(tmp_path / "file" / "base-model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: The base model cannot be written to ")
    assert "Traceback" not in done.stderr
