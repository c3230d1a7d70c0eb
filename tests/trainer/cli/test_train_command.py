"""`turntable train` and what is done with its runs, as typed: one small training and what follows from it."""

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.trainer import commands
from tests.trainer.conftest import chat
from trainer.training.loop import TrainingLoop

ROWS = [chat(f"Order {i} is late, where is it?", f'{{"order": {i}, "late": true}}') for i in range(24)]
RECIPE = (
    'name = "late"\nbase_model = "{base}"\ntrain = "train.jsonl"\nvalid_fraction = 0.25\n[lora]\nr = 8\n'
    "[training]\nlearning_rate = 1e-3\nnum_train_epochs = 1\nper_device_train_batch_size = 4\n"
    "[sweep]\nlearning_rate = [1e-5, 1e-3]\n"
)
Typed = Callable[..., Result]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Typed:
    """Runs a command in a folder with a recipe, on a data directory of its own; `folder` is its attribute."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE.format(base=base_model), encoding="utf-8")

    def run(app: typer.Typer, *arguments: object) -> Result:
        options = [str(argument).replace("HERE", str(folder)) for argument in arguments]
        return CliRunner().invoke(app, [*options, "--data-dir", str(folder / "var")])

    run.folder = folder  # type: ignore[attr-defined]
    return run


@pytest.fixture(scope="module")
def finished(typed: Typed) -> dict[str, Any]:
    """A run that was asked for TensorBoard, as `--json` describes it."""
    result = typed(
        commands.train, "HERE/recipe.toml", "--out", "HERE/var/runs/finished", "--report-to", "tensorboard", "--json"
    )
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_tensorboard_gets_the_figures_of_the_run_without_any_connection(finished: dict[str, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    told = EventAccumulator(str(Path(finished["directory"]) / "tensorboard"))
    told.Reload()
    losses = [event.value for event in told.Scalars("loss")]
    lines = (Path(finished["directory"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [step["loss"] for step in map(json.loads, lines) if step.get("loss") is not None]
    assert losses == pytest.approx(logged, rel=1e-6)
    assert len(losses) == finished["steps"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--report-to", "mlflow"], "--report-to mlflow needs the package mlflow; install it: pip install mlflow"),
        (["--report-to", "wandb"], "--report-to wandb needs the package wandb; install it: pip install wandb"),
        (["--report-to", "paper"], "--report-to paper is not known; use tensorboard, mlflow, wandb"),
        (["--resume"], "has no interrupted run to continue; start it without --resume"),
        (["--sweep", "--report-to", "tensorboard"], "--report-to follows one run, not a sweep"),
        (["--sweep", "--resume"], "--resume continues one run, not a sweep; start the sweep again"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(
    typed: Typed, options: Sequence[str], said: str
) -> None:
    result = typed(commands.train, "HERE/recipe.toml", "--out", "HERE/never", *options)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert not list(typed.folder.glob("*never*"))  # type: ignore[attr-defined]


def test_a_run_that_ctrl_c_stopped_is_continued_to_the_same_weights(
    typed: Typed, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = TrainingLoop._step

    def step(self: TrainingLoop, number: int, rows: Sequence[int]) -> None:
        taken(self, number, rows)
        if number == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as disturbed:
        disturbed.setattr(TrainingLoop, "_step", step)
        stopped = typed(commands.train, "HERE/recipe.toml")
    assert (stopped.exit_code, "continue with --resume" in stopped.stderr) == (130, True), stopped.output
    continued = typed(commands.train, "HERE/recipe.toml", "--resume", "--json")
    assert continued.exit_code == 0, continued.output
    assert json.loads(continued.stdout)["digest"] == finished["digest"]


def test_a_run_is_verified_and_a_changed_one_fails(typed: Typed, finished: dict[str, Any]) -> None:
    same = typed(commands.train, "--verify-run", "HERE/var/runs/finished")
    assert (same.exit_code, f"is reproduced: digest {finished['digest'][:12]}" in same.stdout) == (0, True), same.output
    record = Path(finished["directory"]) / "training.json"
    kept = record.read_text(encoding="utf-8")
    record.write_text(kept.replace(finished["digest"], "0" * 64), encoding="utf-8")
    other = typed(commands.train, "--verify-run", "HERE/var/runs/finished")
    record.write_text(kept, encoding="utf-8")
    assert (other.exit_code, "is not reproduced" in other.stdout) == (1, True), other.output


def test_a_run_is_merged_once_and_its_rows_are_found(typed: Typed, finished: dict[str, Any], base_model: Path) -> None:
    merge = ("HERE/var/runs/finished", "--format", "merged", "--out", "HERE/merged", "--base-model", base_model)
    merged = typed(commands.export, *merge, "--json")
    assert merged.exit_code == 0, merged.output
    assert 0 < json.loads(merged.stdout)["mean_difference"] < 0.1
    again = typed(commands.export, *merge)
    assert (again.exit_code, again.stderr.startswith("error: ")) == (2, True), again.output
    found = typed(commands.lineage, "row", "HERE/train.jsonl:3")
    assert found.exit_code == 0, found.output
    assert f"late@{finished['digest'][:12]}" in found.stdout
    nobody = typed(commands.lineage, "row", "0" * 64)
    assert (nobody.exit_code, "used it" in nobody.stdout) == (0, True), nobody.output
    assert typed(commands.lineage, "row", "HERE/train.jsonl:99").exit_code == 2


def test_a_sweep_shows_its_trials_and_keeps_the_best(typed: Typed, finished: dict[str, Any]) -> None:
    swept = typed(commands.train, "HERE/recipe.toml", "--sweep", "--out", "HERE/swept", "--json")
    assert swept.exit_code == 0, swept.output
    kept = json.loads(swept.stdout)
    assert kept["recipe"]["training"]["learning_rate"] == 1e-3
    assert kept["digest"] == finished["digest"], "the best trial is the run that its recipe alone would be"
    assert (Path(kept["directory"]) / "sweep.svg").is_file()
