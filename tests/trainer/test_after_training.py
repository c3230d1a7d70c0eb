"""After its last step a run saves the adapter before anything else, and finishes whatever happens then."""

import gc
import io
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from adapters import BaseModel
from adapters.manifest import file_sha256
from tests.conftest import ROOT
from tests.trainer.order_recipes import recipe
from trainer.training import parity
from trainer.training.memory import estimate, evaluation_bytes, out_of_memory
from trainer.training.model import load_base
from trainer.training.recipe import Recipe
from trainer.training.run import Run, TrainOptions, train
from trainer.training.sweep import train_sweep

WEIGHTS = "adapter_model.safetensors"
# Trains as the command does; kills itself when it is about to load the bf16 base for the evaluation.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from tests.trainer.order_recipes import recipe
from trainer.training import parity
from trainer.training.run import train

parity.load_base = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
folder, base_model = map(Path, sys.argv[1:])
train(recipe(folder, base_model, "qlora"), folder / "var", Console(quiet=True))
"""


def quantized_layers() -> int:
    from bitsandbytes.nn.modules import Linear4bit

    gc.collect()
    return sum(issubclass(type(one), Linear4bit) for one in gc.get_objects())


def train_aloud(wanted: Recipe, data_dir: Path, *, resume: bool = False) -> tuple[Run, str]:
    """The run, and what was said."""
    said = io.StringIO()
    made = train(wanted, data_dir, Console(file=said, width=500), options=TrainOptions(resume=resume))
    assert made is not None
    return made, said.getvalue()


@pytest.mark.numeric
def test_a_run_killed_in_its_last_evaluation_finishes_with_the_adapter_that_it_saved(
    tmp_path: Path, base_model: Path
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(base_model)]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (partial,) = (tmp_path / "var" / "runs").iterdir()
    saved = file_sha256(partial / WEIGHTS)
    assert (partial / "adapter_config.json").is_file()
    wanted = recipe(tmp_path, base_model, "qlora")
    made, said = train_aloud(wanted, tmp_path / "var", resume=True)
    assert "continuing after step 3 of 3" in said
    assert file_sha256(made.directory / WEIGHTS) == saved
    assert made.facts["on_bf16_base"]["quantization_error"] > 0
    assert [step.step for step in made.metrics if step.eval_loss is not None] == [0, 3]
    assert not list(made.directory.glob("checkpoint*"))


def test_the_nf4_base_is_gone_before_the_bf16_base_comes(
    tmp_path: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = []

    def counted(*arguments: Any, **options: Any) -> Any:
        alive.append(quantized_layers())
        return load_base(*arguments, **options)

    monkeypatch.setattr(parity, "load_base", counted)
    before = quantized_layers()
    swept = recipe(tmp_path, base_model, "qlora", sweep={"learning_rate": (1e-5, 1e-3)})
    outcome = train_sweep(swept, tmp_path / "var", Console(quiet=True))
    assert alive == [before, before], "in both trials"
    on_bf16 = outcome.run.facts["on_bf16_base"]
    assert outcome.trials[outcome.best].eval_loss == on_bf16["eval_loss"] < on_bf16["eval_loss_before"]
    alive.clear()
    made = train(swept.trials()[1], tmp_path / "alone", Console(quiet=True))
    assert made is not None
    assert alive == [before]
    assert made.facts["digest"] == outcome.run.facts["digest"]


def ask_torch_for_too_much(*arguments: Any, **options: Any) -> Any:
    return torch.empty(1 << 60)


def ask_python_for_too_much() -> Any:
    return bytearray(1 << 62)


def ask_the_system_for_too_much() -> Any:
    return mmap.mmap(-1, 1 << 62)


@pytest.mark.parametrize("ask", [ask_torch_for_too_much, ask_python_for_too_much, ask_the_system_for_too_much])
def test_running_out_of_memory_is_told_from_other_errors(ask: Callable[[], Any]) -> None:
    with pytest.raises((MemoryError, RuntimeError, OSError)) as caught:
        ask()
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_run_whose_evaluation_does_not_fit_is_finished_and_says_so(
    tmp_path: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "load_base", ask_torch_for_too_much)
    made, said = train_aloud(recipe(tmp_path, base_model, "qlora"), tmp_path / "var")
    assert "memory ran out while the adapter was evaluated on the bf16 base. The adapter is trained and saved;" in said
    assert set(made.facts["on_bf16_base"].values()) == {None}
    assert (made.directory / WEIGHTS).is_file()
    assert not (made.directory / "parity.json").exists()
    assert json.loads((made.directory / "training.json").read_bytes())["digest"] == made.facts["digest"]


def test_a_bf16_base_that_memory_is_too_small_for_is_told_before_the_run_and_not_loaded(
    tmp_path: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, base = recipe(tmp_path, base_model, "qlora"), BaseModel.read(base_model)
    needed = evaluation_bytes(base, wanted, 32)
    weights = 2 * sum(out * size for out, size in base.modules.values())
    assert weights < needed < 2 * weights + estimate(base, wanted, 0).loss
    for module in ("memory", "parity"):
        monkeypatch.setattr(f"trainer.training.{module}.evaluation_bytes", lambda *_: 1 << 60)
    monkeypatch.setattr(parity, "load_base", ask_torch_for_too_much)
    _, said = train_aloud(wanted, tmp_path / "var")
    assert said.count("the bf16 base needs 1073741824.00 GiB after training, and ") == 2
    assert "memory ran out" not in said
