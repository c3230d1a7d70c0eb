import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapters import BaseModel
from tests.conftest import ROOT
from trainer.errors import RunError
from trainer.training.artifacts import RunRecord, save_adapter, write_record
from trainer.training.loop import TrainedWeights
from trainer.training.metrics_log import StepMetrics
from trainer.training.recipe import Recipe
from trainer.training.run_directory import default_directory, files_in_runs, interrupted_run, staged, staging_folder
from trainer.training.self_check import SelfCheck

Tensors = dict[str, torch.Tensor]
RECIPE = Recipe.model_validate({"name": "x", "train": "t.jsonl", "lora": {"r": 8}, "directory": Path()})
PART = {"file": "t.jsonl", "sha256": "0" * 64, "rows": 9, "dropped_lines": []}
FACTS = {
    "name": "x",
    "method": "lora",
    "base_model": "embedded",
    "base_weights_sha256": "3" * 64,
    "on_bf16_base": {"eval_loss_before": 2.0, "eval_loss": 1.0, "mean_logprob_change": 0.5, "quantization_error": None},
    "base_config_sha256": "1" * 64,
    "chat_template_sha256": "2" * 64,
    "recipe": RECIPE.model_dump(mode="json"),
    "recipe_sha256": RECIPE.sha256,
    "data": {"train": PART, "valid": PART},
    "seed": 0,
    "target_modules": ["q_proj"],
    "trainable_parameters": 10,
    "steps": 1,
    "best_epoch": 1.0,
    "train_loss": 1.0,
    "eval_loss_before": 2.0,
    "eval_loss": 1.0,
    "loss_tokens_per_epoch": 5,
    "loss_tokens": 5,
    "device": "cpu",
    "finished_at": "2026-01-01T00:00:00+00:00",
    "wall_s": 1.0,
}


@pytest.fixture
def base(base_model: Path) -> BaseModel:
    return replace(BaseModel.read(base_model), config_sha256="1" * 64)


def trained(base: BaseModel, change: Callable[[Tensors], object] = lambda tensors: None) -> TrainedWeights:
    """Random weights for every query projection of the base, changed as asked."""
    tensors: Tensors = {}
    for module, (out_features, in_features) in base.modules.items():
        if module.endswith("q_proj"):
            tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(8, in_features, dtype=torch.bfloat16)
            tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(out_features, 8, dtype=torch.bfloat16)
    change(tensors)
    return TrainedWeights(
        tensors=tensors,
        target_modules=("q_proj",),
        steps=1,
        epochs=1,
        input_tokens=10,
        steps_s=1.0,
        train_loss=1.0,
        eval_loss_before=2.0,
        eval_loss=1.0,
        best_epoch=1,
        trainable_parameters=10,
        max_tokens_per_batch=100,
        device="cpu",
        threads=1,
        world_size=1,
        base_shards=1,
        arithmetic="0" * 12,
        self_check=SelfCheck("packed", "turntable_packed", None, 0.0, 0.0),
    )


def write(final: Path, base: BaseModel, outcome: TrainedWeights) -> None:
    hashes = {"base_weights_sha256": base.weights_sha256, "chat_template_sha256": base.chat_template_sha256}
    facts = FACTS | hashes
    with staged(final) as staging:
        account = RunRecord(facts, (StepMetrics(1, 1.0, 1.0, tokens=10),), (), {})
        digest = save_adapter(staging, RECIPE, "embedded", outcome)
        write_record(staging, RECIPE, base, account, digest)


def fill(name_part: str, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: next(t for name, t in tensors.items() if name_part in name).fill_(value)


def drop(name_part: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(next(name for name in tensors if name_part in name))


def widen(tensors: Tensors) -> None:
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = torch.randn(8, 7, dtype=torch.bfloat16)


def test_a_sound_adapter_is_written_with_the_fields_the_engine_serves(tmp_path: Path, base: BaseModel) -> None:
    write(tmp_path / "run", base, trained(base))
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config.keys() == {
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "use_rslora",
        "bias",
        "init_lora_weights",
        "inference_mode",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (fill("lora_A", float("nan")), "the loss diverged: base_model"),
        (fill("lora_B", float("inf")), "the loss diverged: base_model"),
        (fill("lora_B", 0.0), "is all zero: it was not trained"),
        (drop("lora_B"), "the trained adapter is not fit to serve: adapter_model.safetensors"),
        (widen, "the trained adapter is not fit to serve: adapter_model.safetensors"),
    ],
)
def test_an_unsound_adapter_is_refused_and_nothing_is_left(
    tmp_path: Path, base: BaseModel, change: Callable[[Tensors], object], said: str
) -> None:
    with pytest.raises(RunError, match=re.escape(said)):
        write(tmp_path / "run", base, trained(base, change))
    assert list(tmp_path.iterdir()) == []


def test_another_base_is_refused(tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(RunError, match="base_config_sha256"):
        write(tmp_path / "run", replace(base, config_sha256="f" * 64), trained(base))


def test_a_run_interrupted_before_its_first_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "runs" / "x") as staging:
        raise KeyboardInterrupt(staging)
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_a_killed_run_left_does_not_stop_the_next(tmp_path: Path) -> None:
    (tmp_path / ".x.partial").mkdir()
    with staged(tmp_path / "x") as staging:
        (staging / "file").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["x", "x/file"]


HOLDER = """
import sys, time
from pathlib import Path
from trainer.training.run_directory import staged
with staged(Path(sys.argv[1])) as staging:
    (staging / "checkpoint-000004").mkdir()
    (staging / "checkpoint-000004" / "state.json").touch()
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_is_written_by_one_process_and_free_when_that_is_killed(tmp_path: Path, resume: bool) -> None:
    final = tmp_path / "runs" / "x"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(final)], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds\n"
        with (
            pytest.raises(RunError, match="another process is writing"),
            staged(final, resume=resume),
        ):
            pass
        assert (staging_folder(final) / "checkpoint-000004" / "state.json").is_file(), "nothing of it is touched"
        holder.kill()
    with staged(final, resume=True):
        pass
    assert [path.name for path in final.iterdir()] == ["checkpoint-000004"]


def leave_a_checkpoint(folder: Path) -> None:
    (folder / "checkpoint-000004").mkdir()
    (folder / "checkpoint-000004" / "state.json").touch()
    raise KeyboardInterrupt


def test_an_interrupted_run_with_a_checkpoint_stays_and_is_only_continued_when_asked(tmp_path: Path) -> None:
    final = tmp_path / "runs" / "x-20260101T000000Z"
    with pytest.raises(KeyboardInterrupt), staged(final) as staging:
        leave_a_checkpoint(staging)
    with pytest.raises(RunError, match="was interrupted; continue it with --resume"), staged(final):
        pass
    assert interrupted_run(tmp_path, "x") == final
    with staged(final, resume=True) as staging:
        assert (staging / "checkpoint-000004").is_dir()
    assert final.is_dir()


def test_a_run_that_was_not_interrupted_cannot_be_continued(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no interrupted run of x"):
        interrupted_run(tmp_path, "x")
    with pytest.raises(RunError, match="has no interrupted run to continue"), staged(tmp_path / "x", resume=True):
        pass


def test_two_runs_of_one_second_have_two_directories(tmp_path: Path) -> None:
    taken = set()
    for _ in range(3):
        directory = default_directory(tmp_path, "x")
        directory.mkdir(parents=True)
        taken.add(directory)
    assert len(taken) == 3


def test_latest_means_the_run_that_was_completed_last(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("first", "second"):
        with staged(runs / name) as staging:
            (staging / "training.json").write_text(name, encoding="utf-8")
        assert (runs / "latest" / "training.json").read_text(encoding="utf-8") == name
    with pytest.raises(KeyboardInterrupt), staged(runs / "third"):
        raise KeyboardInterrupt
    assert (runs / "latest").readlink() == Path("second")
    assert sorted(path.name for path in runs.iterdir()) == ["first", "latest", "second"]
    assert [path.parent.name for path in files_in_runs(runs, "training.json")] == ["first", "second"]


def test_what_somebody_keeps_as_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    with staged(tmp_path / "runs" / "first"):
        pass
    assert not (tmp_path / "runs" / "latest").is_symlink()


def test_a_run_elsewhere_makes_no_link(tmp_path: Path) -> None:
    with staged(tmp_path / "elsewhere"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be written"), staged(tmp_path / "runs" / "x"):
        pass
