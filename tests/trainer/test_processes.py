"""Several processes training one adapter on a CPU: the same steps as one process that takes as many rows at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.conftest import ROOT
from tests.trainer.conftest import chat
from trainer.errors import RunError
from trainer.recipe import read_recipe
from trainer.recorder import read_metrics
from trainer.train import train

RECIPE = (
    'name = "late"\nbase_model = "{base}"\ntrain = "train.jsonl"\nvalid_fraction = 0.2\n'
    "[lora]\nr = 8\nlora_dropout = 0.0\n[training]\nlearning_rate = 1e-3\nnum_train_epochs = 1\n"
    "per_device_train_batch_size = 4\ngradient_accumulation_steps = {accumulate}\n"
)


@pytest.fixture
def folder(tmp_path: Path, base_model: Path) -> Path:
    rows = [
        chat(f"Order {i} is late, {'where is it? ' * (i % 7)}", f'{{"order": {i}}}' * (1 + i % 3)) for i in range(60)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, accumulate in (("two", 1), ("one", 2)):
        text = RECIPE.format(base=base_model, accumulate=accumulate)
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    return tmp_path


def test_two_processes_take_the_steps_of_one_with_twice_the_accumulation(folder: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "turntable", "train", str(folder / "two.toml"), "--out", str(folder / "two")]
    command += ["--report-to", "tensorboard"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TURNTABLE_DATA_DIR": str(folder / "var")}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("rows to train on") + ended.stdout.count("rows to train on") == 1
    assert len(list((folder / "two" / "tensorboard").iterdir())) == 1
    alone = train(read_recipe(folder / "one.toml"), folder / "var", Console(quiet=True), out=folder / "one")
    assert alone is not None
    together = json.loads((folder / "two" / "training.json").read_bytes())
    assert (together["processes"], together["steps"]) == (2, alone.facts["steps"])
    curves = [read_metrics(folder / name / "metrics.jsonl") for name in ("one", "two")]
    one, two = ([step.loss or step.eval_loss for step in curve] for curve in curves)
    assert two == pytest.approx(one, rel=5e-3)
    assert together["valid_loss"] < 0.95 * together["valid_loss_before"]


@pytest.mark.parametrize(("variable", "said"), [("FSDP", "asks for FSDP"), ("DEEPSPEED", "asks for DeepSpeed")])
def test_a_launcher_that_wants_the_base_split_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    with pytest.raises(RunError, match=said):
        train(read_recipe(folder / "one.toml"), folder / "var", Console(quiet=True))
    assert not (folder / "var").exists()
