"""Real runs on the embedded base model: small data, real files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from safetensors import safe_open

from adapters import BaseModel, preflight
from adapters.answer_profile import Baseline, ProfiledAnswer
from tests.conftest import ROOT
from tests.trainer.conftest import WriteJsonl, chat
from tests.trainer.precision import loss_token_logprobs
from trainer.errors import DataError, RunError
from trainer.training.dataset import load_data
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample, Renderer
from trainer.training.recipe import Recipe
from trainer.training.run import Run, TrainOptions, train
from trainer.training.verify_run import verify

ROWS = [chat(f"Order {i} is late, where is it?", f'{{"order": {i}, "late": true}}') for i in range(24)]
QUIET = Console(quiet=True)
ADVICE = {"answer": "PROMPT", "despite": "we are curious"}


def small_recipe(folder: Path, base_model: Path, **training: object) -> Recipe:
    """24 rows, a quarter held out, two epochs at rank 8."""
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return Recipe.model_validate(
        {
            "name": "late",
            "base_model": str(base_model),
            "train": "train.jsonl",
            "valid_fraction": 0.25,
            "lora": {"r": 8},
            "training": {"learning_rate": 1e-3, "num_train_epochs": 2, **training},
            "directory": folder,
        }
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> tuple[Recipe, Run]:
    folder = tmp_path_factory.mktemp("run")
    recipe = small_recipe(folder, base_model)
    return recipe, done(train(recipe, folder / "var", QUIET, options=TrainOptions(advice=ADVICE)))


def done(run: Run | None) -> Run:
    assert run is not None
    return run


def rendered_valid(recipe: Recipe, base_model: Path) -> list[RenderedExample]:
    renderer = Renderer.load(base_model)
    return [renderer.render(example) for example in load_data(recipe).valid.rows]


def test_a_run_leaves_one_complete_directory(finished: tuple[Recipe, Run]) -> None:
    recipe, run = finished
    runs = recipe.directory / "var" / "runs"
    assert {path.name for path in runs.iterdir()} == {run.directory.name, "latest"}
    assert (runs / "latest").resolve() == run.directory.resolve()
    assert sorted(path.name for path in run.directory.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "loss.svg",
        "metrics.jsonl",
        "parity.json",
        "rows.jsonl",
        "run.json",
        "training.json",
    ]


def test_the_adapter_is_bf16_and_passes_the_gateways_preflight(finished: tuple[Recipe, Run], base_model: Path) -> None:
    directory = finished[1].directory
    base = BaseModel.read(base_model)
    assert preflight(directory, base, max_rank=8).r == 8
    with safe_open(directory / "adapter_model.safetensors", framework="pt") as tensors:
        names = list(tensors.keys())
        assert {str(tensors.get_slice(name).get_dtype()) for name in names} == {"BF16"}
    adapted = [name for name in base.modules if name.split(".")[-1] not in ("embed_tokens", "lm_head")]
    assert len(names) == 2 * len(adapted)


def test_the_config_names_the_base_and_no_path_of_this_machine(finished: tuple[Recipe, Run], base_model: Path) -> None:
    config = json.loads((finished[1].directory / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == base_model.name
    assert (config["r"], config["lora_alpha"], config["bias"]) == (8, 32, "none")
    texts = [
        (finished[1].directory / name).read_text(encoding="utf-8") for name in ("adapter_config.json", "README.md")
    ]
    assert not any(str(finished[0].directory) in text for text in texts)


def test_the_facts_say_what_was_trained_on_what(finished: tuple[Recipe, Run], base_model: Path) -> None:
    recipe, run = finished
    facts = json.loads((run.directory / "training.json").read_text(encoding="utf-8"))
    assert facts["recipe_sha256"] == recipe.sha256
    base = BaseModel.read(base_model)
    assert (facts["base_config_sha256"], facts["base_weights_sha256"]) == (base.config_sha256, base.weights_sha256)
    assert facts["tokenizer_sha256"] == base.tokenizer_sha256
    assert facts["chat_template_sha256"] == base.chat_template_sha256
    assert facts["data"]["train"]["sha256"] == load_data(recipe).train.sha256
    assert (facts["data"]["train"]["rows"], facts["data"]["valid"]["rows"]) == (18, 6)
    assert facts["steps"] == 2 * 3
    assert facts["eval_loss"] < facts["eval_loss_before"]
    assert facts["advice"] == ADVICE
    assert facts["versions"].keys() >= {"torch", "transformers", "peft"}
    baseline = Baseline.read(facts)
    assert baseline is not None
    assert (baseline.answers, baseline.counts["ended"]) == (18, {"stop": 18})
    row = Renderer.load(base_model).render(load_data(recipe).train.rows[0])
    of_row = dict(ProfiledAnswer("", row.tokens - row.loss_tokens, row.loss_tokens, "stop").buckets(baseline.shape))
    assert of_row["prompt_tokens"] in baseline.counts["prompt_tokens"]
    assert of_row["completion_tokens"] in baseline.counts["completion_tokens"]


def test_nothing_is_cut_and_every_row_is_seen_once_per_epoch(finished: tuple[Recipe, Run], base_model: Path) -> None:
    recipe, run = finished
    renderer = Renderer.load(base_model)
    rows = [renderer.render(example) for example in load_data(recipe).train.rows]
    assert run.facts["input_tokens"] == 2 * sum(len(row.input_ids) for row in rows)
    assert run.facts["loss_tokens"] == 2 * sum(row.loss_tokens for row in rows)


@pytest.mark.numeric
def test_the_loss_is_over_learnt_tokens_only(finished: tuple[Recipe, Run], base_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    recipe, run = finished
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.bfloat16).eval()
    rows = [
        {"input_ids": row.input_ids, "positions": [at for at, label in enumerate(row.labels) if label != IGNORE_INDEX]}
        for row in rendered_valid(recipe, base_model)
    ]
    in_bf16, exact = loss_token_logprobs(model, rows), loss_token_logprobs(model.float(), rows)
    of_bf16 = float((in_bf16 - exact).abs().mean())
    assert run.facts["eval_loss_before"] == pytest.approx(-float(exact.mean()), abs=2 * of_bf16)
    assert of_bf16 < 0.01 * run.facts["eval_loss_before"], "a bound that finds a token too many or too few"


def test_metrics_are_one_line_per_logged_step(finished: tuple[Recipe, Run]) -> None:
    lines = (finished[1].directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    assert [step["step"] for step in steps if step["loss"] is not None] == [1, 2, 3, 4, 5, 6]
    assert [step["step"] for step in steps if step["eval_loss"] is not None] == [0, 3, 6]
    assert steps[1]["grad_norm"] > 0
    assert steps[-1]["tokens"] == finished[1].facts["input_tokens"]


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_does_not(
    finished: tuple[Recipe, Run], tmp_path: Path
) -> None:
    recipe, run = finished

    again = done(train(recipe, tmp_path, QUIET, out=tmp_path / "again"))
    other = done(train(recipe.model_copy(update={"seed": 1}), tmp_path, QUIET, out=tmp_path / "other"))
    first, same, different = ((r.directory / "adapter_model.safetensors").read_bytes() for r in (run, again, other))
    assert first == same
    assert first != different
    assert run.facts["digest"] == again.facts["digest"] != other.facts["digest"]


def test_broken_data_is_refused_before_anything_is_written(tmp_path: Path, base_model: Path) -> None:
    recipe = small_recipe(tmp_path, base_model)
    (tmp_path / "train.jsonl").write_text('{"messages": []}\n', encoding="utf-8")
    with pytest.raises(DataError):
        train(recipe, tmp_path / "var", QUIET)
    assert not (tmp_path / "var").exists()


def test_rows_the_template_cannot_render_leave_no_run(tmp_path: Path, base_model: Path, jsonl: WriteJsonl) -> None:
    recipe = small_recipe(tmp_path, base_model)
    jsonl(*ROWS, chat("What is <|end|>?"))
    with pytest.raises(DataError, match=r"train.jsonl:25: messages\[0\].content contains"):
        train(recipe, tmp_path / "var", QUIET)
    assert list((tmp_path / "var" / "runs").iterdir()) == []


def test_a_run_without_held_out_rows_keeps_the_last_weights(tmp_path: Path, base_model: Path) -> None:
    recipe = small_recipe(tmp_path, base_model, num_train_epochs=1).model_copy(update={"valid_fraction": 0.0})
    run = done(train(recipe, tmp_path / "var", QUIET))
    assert (run.facts["eval_loss"], run.facts["best_epoch"]) == (None, None)
    assert "not measured" in (run.directory / "README.md").read_text(encoding="utf-8")


def test_an_existing_run_directory_is_not_overwritten(finished: tuple[Recipe, Run]) -> None:
    recipe, run = finished
    with pytest.raises(RunError, match="exists already; give another --out"):
        train(recipe, recipe.directory / "var", QUIET, out=run.directory)


def test_a_base_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, Path("nowhere/at-all"))
    with pytest.raises(
        RunError, match="base_model: nowhere/at-all is neither a folder beside the recipe nor in the local"
    ):
        train(recipe, tmp_path / "var", QUIET)


@pytest.mark.numeric
def test_a_finished_run_is_reproduced_and_a_tampered_one_is_told_apart(
    finished: tuple[Recipe, Run], tmp_path: Path
) -> None:
    run = finished[1]
    copy = tmp_path / "copy"
    shutil.copytree(run.directory, copy)
    assert verify(copy, tmp_path, QUIET).same
    facts = json.loads((copy / "training.json").read_text(encoding="utf-8"))
    (copy / "training.json").write_text(json.dumps(facts | {"digest": "0" * 64}), encoding="utf-8")
    verdict = verify(copy, tmp_path, QUIET)
    assert not verdict.same
    assert "is not reproduced: digest" in verdict.sentence
    facts["data"]["train"]["sha256"] = "0" * 64
    (copy / "training.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(RunError, match="is not the file that was trained on"):
        verify(copy, tmp_path, QUIET)


def test_a_run_of_another_processor_is_reproduced_but_for_rounding(
    finished: tuple[Recipe, Run], tmp_path: Path
) -> None:
    copy = shutil.copytree(finished[1].directory, tmp_path / "copy")
    facts = json.loads((copy / "training.json").read_text(encoding="utf-8"))
    (copy / "training.json").write_text(json.dumps(facts | {"arithmetic": "another", "digest": "0" * 64}))
    alike = verify(copy, tmp_path, QUIET)
    assert alike.same
    assert "a CPU that rounds differently" in alike.sentence
    document = json.loads((copy / "parity.json").read_bytes())
    for row in document["rows"]:
        row["adapter"] = [(value + base) / 2 for value, base in zip(row["adapter"], row["base"], strict=True)]
    (copy / "parity.json").write_text(json.dumps(document))
    assert not verify(copy, tmp_path, QUIET).same, "half of what was learnt is more than rounding"


def test_a_run_is_reproduced_on_another_instruction_set(finished: tuple[Recipe, Run], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "turntable", "train", "--verify-run", str(finished[1].directory)]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "TURNTABLE_DATA_DIR": str(tmp_path)}
    told = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "is reproduced" in told.stdout
