"""Interrupted runs: killed or asked to stop, they end in the very bytes of a run that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.conftest import ROOT
from tests.trainer.conftest import chat
from trainer.errors import RunError
from trainer.training.recipe import read_recipe
from trainer.training.run import TrainOptions, train

QUIET = Console(quiet=True)
LAST_STEP = 20
# Trains as the command does; at the step named it kills itself or sends itself Ctrl-C. No connection may be opened.
PROGRAM = """
import os, signal, sys
from trainer.training import loop

def audit(event, arguments):
    # A library that is imported may bind to loopback to find out whether there is IPv6.
    if event == "socket.bind" and arguments[1][0] == "::1":
        return
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"):
        os.write(2, f"NETWORK {event} {arguments}".encode())
        os._exit(99)

sys.addaudithook(audit)
recipe, signal_name, at = sys.argv[1:]
taken = loop.TrainingLoop._step
def step(self, number, rows):
    taken(self, number, rows)
    if number == int(at):
        os.kill(os.getpid(), getattr(signal, signal_name))
loop.TrainingLoop._step = step
sys.argv = ["turntable", "train", recipe]
from trainer.cli.train import app
app(args=[recipe], prog_name="turntable train")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Path:
    """A recipe of 20 steps in two epochs, with dropout and held-out rows."""
    made = tmp_path_factory.mktemp("resume")
    rows = [chat(f"Order {i} is late, where is it?", f'{{"order": {i}, "late": true}}') for i in range(48)]
    (made / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (made / "recipe.toml").write_text(
        f'name = "late"\nbase_model = "{base_model}"\ntrain = "train.jsonl"\nvalid_fraction = 0.17\n'
        "[lora]\nr = 8\n[training]\nlearning_rate = 1e-3\nnum_train_epochs = 2\nper_device_train_batch_size = 4\n",
        encoding="utf-8",
    )
    return made


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Both processes compute on one thread: the order of sums, and so the bytes, depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, Any]:
    run = train(read_recipe(folder / "recipe.toml"), folder / "undisturbed", QUIET)
    assert run is not None
    assert run.facts["steps"] == LAST_STEP
    return run.facts


def disturbed(recipe: Path, data_dir: Path, signal_name: str, at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(recipe), signal_name, str(at)]
    environment = os.environ | {"TURNTABLE_DATA_DIR": str(data_dir), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("signal_name", "at", "code"), [("SIGKILL", 7, -signal.SIGKILL), ("SIGINT", 13, 130)], ids=["kill -9", "Ctrl-C"]
)
def test_a_disturbed_run_that_is_continued_ends_in_the_same_bytes(
    folder: Path, undisturbed: dict[str, Any], signal_name: str, at: int, code: int
) -> None:
    data_dir = folder / signal_name
    ended = disturbed(folder / "recipe.toml", data_dir, signal_name, at)
    assert ended.returncode == code, ended.stderr
    if signal_name == "SIGINT":
        assert "interrupted after step 13 of 20; its checkpoint is kept, continue with --resume" in ended.stderr
    assert "Traceback" not in ended.stderr
    (partial,) = (data_dir / "runs").iterdir()
    assert partial.name.endswith(".partial")
    run = train(read_recipe(folder / "recipe.toml"), data_dir, QUIET, options=TrainOptions(resume=True))
    assert run is not None
    assert run.facts["digest"] == undisturbed["digest"]
    figures = ("steps", "eval_loss", "eval_loss_before", "train_loss", "input_tokens", "best_epoch")
    assert {name: run.facts[name] for name in figures} == {name: undisturbed[name] for name in figures}
    assert [step.step for step in run.metrics if step.loss is not None] == list(range(1, LAST_STEP + 1))
    assert {path.name for path in (data_dir / "runs").iterdir()} == {run.directory.name, "latest"}
    assert not list(run.directory.glob("checkpoint*"))


def test_a_killed_run_goes_on_with_its_own_steps_of_evaluation_and_saving_and_its_reference(
    folder: Path, undisturbed: dict[str, Any]
) -> None:
    """KTO from an adapter, evaluated every three steps and saved every four; killed three steps after a checkpoint."""
    rows = [
        chat(f"Order {i} is late, where is it?", "No idea." if i % 2 else f"Order {i} is late.", label=i % 2 == 0)
        for i in range(48)
    ]
    (folder / "ratings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (init,) = (path for path in (folder / "undisturbed" / "runs").iterdir() if path.name != "latest")
    text = (folder / "recipe.toml").read_text(encoding="utf-8")
    text = text.replace("train.jsonl", "ratings.jsonl").replace("[lora]\n", f'[lora]\ninit = "{init}"\n')
    steps = "eval_steps = 3\nsave_steps = 4\nearly_stopping_patience = 0\n"
    (folder / "kto.toml").write_text(f'method = "kto"\n{text}{steps}', encoding="utf-8")
    alone = train(read_recipe(folder / "kto.toml"), folder / "kto-alone", QUIET)
    assert alone is not None
    assert alone.facts["initial_adapter"]["digest"] == undisturbed["digest"] != alone.facts["digest"]
    data_dir = folder / "kto-killed"
    ended = disturbed(folder / "kto.toml", data_dir, "SIGKILL", 11)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (partial,) = (data_dir / "runs").iterdir()
    assert [path.name for path in partial.glob("checkpoint-*")] == ["checkpoint-000008"]
    run = train(read_recipe(folder / "kto.toml"), data_dir, QUIET, options=TrainOptions(resume=True))
    assert run is not None
    assert run.facts["digest"] == alone.facts["digest"]
    assert run.facts["rewards"] == alone.facts["rewards"]
    assert [step.step for step in run.metrics if step.eval_loss is not None] == [0, 3, 6, 9, 12, 15, 18, LAST_STEP]
    rewards = [[(step.reward_chosen, step.reward_rejected) for step in one.metrics] for one in (run, alone)]
    assert rewards[0] == rewards[1]


def test_a_changed_recipe_or_file_does_not_continue_another_run(folder: Path, tmp_path: Path) -> None:
    ended = disturbed(folder / "recipe.toml", tmp_path, "SIGINT", 2)
    assert ended.returncode == 130, ended.stderr
    recipe = read_recipe(folder / "recipe.toml")
    with pytest.raises(RunError, match="was started with another recipe, so it cannot be resumed"):
        train(recipe.model_copy(update={"seed": 5}), tmp_path, QUIET, options=TrainOptions(resume=True))
    data = folder / "train.jsonl"
    kept = data.read_bytes()
    data.write_bytes(kept + json.dumps(chat("One more?", "Yes.")).encode() + b"\n")
    try:
        with pytest.raises(RunError, match="another training file and held-out file, so it cannot be resumed"):
            train(recipe, tmp_path, QUIET, options=TrainOptions(resume=True))
    finally:
        data.write_bytes(kept)
    (partial,) = (tmp_path / "runs").iterdir()
    assert list(partial.glob("checkpoint-*")), "the refused run can still be continued"
