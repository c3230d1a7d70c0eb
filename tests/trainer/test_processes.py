"""Several processes training one model on a CPU: the same steps as one process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.conftest import ROOT
from tests.trainer.conftest import chat
from tests.trainer.shared_evaluation import evaluate
from tests.waiting import wait_until
from trainer.errors import RunError
from trainer.training import model
from trainer.training.distributed import DistributedState, refuse_idle_ranks
from trainer.training.metrics_log import read_metrics
from trainer.training.recipe import Recipe, read_recipe
from trainer.training.run import Run, TrainOptions, train
from trainer.training.run_directory import staging_folder
from trainer.training.sweep import train_sweep

RECIPE = (
    'name = "late"\nbase_model = "{base}"\nmethod = "{method}"\ntrain = "{method}.jsonl"\nvalid_fraction = 0.2\n'
    "{more}[training]\nlearning_rate = {rate}\nnum_train_epochs = 2\nmax_tokens_per_batch = 128\n"
    "per_device_train_batch_size = 4\ngradient_accumulation_steps = 2\n"
)
# fp32 rounds to 6e-8, so the same sums in another order part by far less than a thousandth over so few steps.
REORDERED = 1e-3
ADAPTER = "[lora]\nr = 8\nlora_dropout = 0.0\n"
METHODS = {"lora": ("1e-3", ADAPTER), "qlora": ("1e-3", ADAPTER), "full": ("1e-4", ""), "dpo": ("1e-3", ADAPTER)}
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
FSDP = ("accelerate.commands.launch", "--use_fsdp", "--num_processes", "2", "-m")


@pytest.fixture
def folder(tmp_path: Path, base_model: Path) -> Path:
    asked = [f"Order {i} is late, {'where is it? ' * (i % 7)}" for i in range(61)]
    said = [f'{{"order": {i}}}' * (1 + i % 3) for i in range(61)]
    pairs = [
        {
            "input": {"messages": [{"role": "user", "content": question}]},
            "preferred_output": [{"role": "assistant", "content": answer}],
            "non_preferred_output": [{"role": "assistant", "content": "I do not know."}],
        }
        for question, answer in zip(asked, said, strict=True)
    ]
    conversations = [chat(question, answer) for question, answer in zip(asked, said, strict=True)]
    for method, (rate, more) in METHODS.items():
        rows: list[dict[str, Any]] = pairs if method == "dpo" else conversations
        (tmp_path / f"{method}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        text = RECIPE.format(base=base_model, method=method, rate=rate, more=more)
        (tmp_path / f"{method}.toml").write_text(text, encoding="utf-8")
    return tmp_path


def launched(folder: Path, launcher: tuple[str, ...], method: str, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", *launcher, "tests.trainer.in_fp32", "train", str(folder / f"{method}.toml")]
    command += ["--out", str(folder / "two"), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TURNTABLE_DATA_DIR": str(folder / "var")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def said_by(process: "subprocess.Popen[str]") -> str:
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def train_in_fp32(folder: Path, method: str, out: Path, options: TrainOptions | None = None) -> Run | None:
    """Train in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "PRECISION", torch.float32)
        recipe = read_recipe(folder / f"{method}.toml")
        return train(recipe, folder / "var", Console(quiet=True), out=out, options=options)


def assert_same_steps_as_alone(folder: Path, method: str) -> dict[str, Any]:
    """The facts of the run in two processes, once its losses are those of one process."""
    alone = train_in_fp32(folder, method, folder / "one")
    assert alone is not None
    together: dict[str, Any] = json.loads((folder / "two" / "training.json").read_bytes())
    assert (together["world_size"], together["steps"]) == (2, alone.facts["steps"])
    curves = [read_metrics(folder / name / "metrics.jsonl") for name in ("one", "two")]
    one, two = ([step.loss or step.eval_loss for step in curve] for curve in curves)
    assert two == pytest.approx(one, rel=REORDERED, abs=REORDERED)
    assert together["eval_loss"] < 0.95 * together["eval_loss_before"]
    served = [facts["on_bf16_base"] for facts in (alone.facts, together)]
    assert served[1]["eval_loss"] == pytest.approx(served[0]["eval_loss"], rel=REORDERED)
    assert served[1]["mean_logprob_change"] == (
        served[0]["mean_logprob_change"] and pytest.approx(served[0]["mean_logprob_change"], rel=REORDERED)
    )
    return together


@pytest.mark.numeric
def test_two_processes_take_the_steps_of_one(folder: Path) -> None:
    said = said_by(launched(folder, TORCHRUN, "lora", "--report-to", "tensorboard"))
    assert said.count(" training rows") == 1
    assert len(list((folder / "two" / "tensorboard").iterdir())) == 1
    assert assert_same_steps_as_alone(folder, "lora")["base_shards"] == 1


@pytest.mark.parametrize("method", ["lora", "qlora", "dpo"])
def test_a_base_that_is_split_over_two_processes_learns_the_same(folder: Path, method: str) -> None:
    said_by(launched(folder, FSDP, method))
    assert assert_same_steps_as_alone(folder, method)["base_shards"] == 2


def test_preferences_over_a_base_that_is_split_are_learnt_in_fp32_and_served_in_bf16(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        *FSDP,
        "turntable",
        "train",
        str(folder / "dpo.toml"),
        "--out",
        str(folder / "two"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TURNTABLE_DATA_DIR": str(folder / "var")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads((folder / "two" / "training.json").read_bytes())
    assert (facts["world_size"], facts["base_shards"]) == (2, 2)
    assert facts["eval_loss_before"] == pytest.approx(0.6931, abs=1e-3)
    assert facts["eval_loss"] < 0.69
    assert facts["on_bf16_base"]["mean_logprob_change"] > 0
    assert json.loads((folder / "two" / "parity.json").read_bytes())["rows"]


def test_a_split_full_fine_tuning_that_was_stopped_goes_on_to_the_same_model(folder: Path) -> None:
    process = launched(folder, FSDP, "full")
    staging = staging_folder(folder / "two")
    wait_until(lambda: process.poll() is not None or list(staging.glob("checkpoint-*")), 600, 0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    process.communicate()
    assert list(staging.glob("checkpoint-*"))
    with pytest.raises(RunError, match="world size 2 and cannot be resumed with 1; launch as many"):
        train_in_fp32(folder, "full", folder / "two", TrainOptions(resume=True))
    assert "continuing after step" in said_by(launched(folder, FSDP, "full", "--resume"))
    assert assert_same_steps_as_alone(folder, "full")["base_shards"] == 2


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed is not supported"),
        ("FSDP_OFFLOAD_PARAMS", "CPU offload .* is not supported"),
    ],
)
def test_launcher_options_that_are_not_supported_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(RunError, match=said):
        train(read_recipe(folder / "lora.toml"), folder / "var", Console(quiet=True))
    assert not (folder / "var").exists()


def test_work_of_one_process_is_refused_under_a_launcher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    document = read_recipe(folder / "lora.toml").model_dump(mode="json", exclude_unset=True)
    swept = Recipe.model_validate({**document, "sweep": {"r": [8, 16]}, "directory": folder})
    with pytest.raises(RunError, match="a sweep runs in one process, and 2 were launched"):
        train_sweep(swept, folder / "var", Console(quiet=True))
    assert not (folder / "var").exists()


def test_more_processes_than_rows_of_a_step_are_refused() -> None:
    with pytest.raises(RunError, match="gradient_accumulation_steps = 3, or launch fewer"):
        refuse_idle_ranks(2, DistributedState(world_size=3))


def test_the_processes_share_the_rows_of_an_evaluation(base_model: Path, tmp_path: Path) -> None:
    """Each row is computed by one process, and all have the result of one process alone."""
    command = [sys.executable, "-m", *TORCHRUN, "tests.trainer.shared_evaluation", str(base_model), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    evaluate(base_model, tmp_path / "alone.json", DistributedState())
    alone, one, other = (json.loads((tmp_path / f"{name}.json").read_bytes()) for name in ("alone", "0", "1"))
    assert sorted(one["rows"] + other["rows"]) == sorted(alone["rows"]) == list(range(9))
    assert sorted(one["lines of pairs"] + other["lines of pairs"]) == sorted(alone["lines of pairs"])
    assert min(len(one["rows"]), len(other["rows"])) >= 3
    assert min(len(one["lines of pairs"]), len(other["lines of pairs"])) >= 6
    assert one["reference"] == other["reference"] == pytest.approx(alone["reference"], abs=REORDERED)
    for objective in ("loss", "pairs", "ratings"):
        assert one[objective] == other[objective] == pytest.approx(alone[objective], rel=1e-5)
    for objective in ("rewards of pairs", "rewards of ratings"):
        for name, (total, weight) in alone[objective].items():
            assert one[objective][name][0] + other[objective][name][0] == pytest.approx(total, abs=REORDERED)
            assert one[objective][name][1] + other[objective][name][1] == weight
