"""Every method trains on the embedded base: real data, real quantisation, files that load elsewhere."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from adapters import BaseModel, preflight
from adapters.peft_config import PeftConfig
from tests.trainer.order_recipes import RATINGS, ROWS, recipe
from tests.trainer.precision import assert_as_exact, loss_token_logprobs
from trainer.errors import DataError, RecipeError, RunError
from trainer.training.export import ExportedAdapter, export
from trainer.training.lineage import find_row_uses, resolve_row
from trainer.training.run import Run, train
from trainer.training.sweep import train_sweep

QUIET = Console(quiet=True)


def run(folder: Path, base_model: Path, method: str) -> Run:
    made = train(recipe(folder, base_model, method), folder / "var", QUIET)
    assert made is not None
    return made


def merge(adapter: Path, out: Path, base_model: str | None = None) -> ExportedAdapter:
    return export(str(adapter), "merged", base_model, out, out.parent, QUIET)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Run:
    return run(tmp_path_factory.mktemp("lora"), base_model, "lora")


@pytest.mark.numeric
def test_qlora_learns_over_nf4_and_is_measured_on_the_served_base(tmp_path: Path, base_model: Path) -> None:
    facts = run(tmp_path, base_model, "qlora").facts
    served = facts["on_bf16_base"]
    assert facts["eval_loss"] < facts["eval_loss_before"]
    assert served["eval_loss"] < served["eval_loss_before"]
    assert served["eval_loss_before"] != facts["eval_loss_before"], "NF4 is another base than the served one"
    assert served["quantization_error"] > 0.001


@pytest.mark.numeric
def test_full_fine_tuning_leaves_a_model_that_loads_as_a_base(tmp_path: Path, base_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = run(tmp_path, base_model, "full")
    assert made.facts["eval_loss"] < made.facts["eval_loss_before"]
    assert BaseModel.read(made.directory).modules == BaseModel.read(base_model).modules
    model = AutoModelForCausalLM.from_pretrained(made.directory, dtype=torch.bfloat16).eval()
    assert AutoTokenizer.from_pretrained(made.directory).chat_template
    rows = json.loads((made.directory / "parity.json").read_bytes())["rows"]
    in_bf16, exact = loss_token_logprobs(model, rows), loss_token_logprobs(model.float(), rows)
    assert_as_exact([value for row in rows for value in row["base"]], in_bf16, exact)
    changed = load_file(made.directory / "model.safetensors")
    before = load_file(base_model / "model.safetensors")
    assert any(not torch.equal(changed[name], before[name]) for name in changed)


@pytest.mark.numeric
def test_dpo_prefers_the_better_answer_and_keeps_to_the_base_at_first(tmp_path: Path, base_model: Path) -> None:
    made = run(tmp_path, base_model, "dpo")
    assert made.facts["eval_loss_before"] == pytest.approx(0.6931, abs=1e-3), "untrained, both are equally likely"
    assert made.facts["eval_loss"] < 0.69
    margins = [metrics.reward_margin or 0.0 for metrics in made.metrics]
    assert margins[0] == pytest.approx(0.0, abs=1e-3)
    assert margins[-1] > 0
    assert made.facts["rewards"]["margin"] == pytest.approx(margins[-1], abs=1e-6), "of the best evaluation, the last"
    assert all(metrics.reward_accuracy is not None for metrics in made.metrics)
    assert preflight(made.directory, BaseModel.read(base_model), max_rank=8).r == 8
    assert (made.facts["data"]["train"]["rows"], made.facts["data"]["valid"]["rows"]) == (12, 4)


@pytest.mark.numeric
@pytest.mark.parametrize("method", ["orpo", "kto"])
def test_every_preference_method_learns_and_logs_its_rewards(tmp_path: Path, base_model: Path, method: str) -> None:
    made = run(tmp_path, base_model, method)
    facts = made.facts
    assert facts["eval_loss"] < facts["eval_loss_before"]
    assert facts["rewards"]["margin"] == pytest.approx(facts["rewards"]["chosen"] - facts["rewards"]["rejected"])
    logged = [json.loads(line) for line in (made.directory / "metrics.jsonl").read_text().splitlines()]
    assert all({"reward_chosen", "reward_rejected", "reward_margin"} & line.keys() for line in logged)
    assert logged[-1]["reward_margin"] > logged[0].get("reward_margin", 0)
    assert [("reward_accuracy" in line) for line in logged] == [method == "orpo"] * len(logged)
    assert (made.directory / "rewards.svg").read_text().startswith("<svg")
    assert (made.directory / "accuracy.svg").exists() == (method == "orpo"), "answers of kto are not compared"
    assert preflight(made.directory, BaseModel.read(base_model), max_rank=8).r == 8


def test_kto_wants_a_label_of_every_answer(tmp_path: Path, base_model: Path) -> None:
    wanted = recipe(tmp_path, base_model, "kto")
    rows = [{**RATINGS[0], "label": "good"}, {**RATINGS[1], "label": "so-so"}, ROWS[2]]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        train(wanted, tmp_path / "var", QUIET)
    assert [problem.line for problem in caught.value.problems] == [2, 3]
    assert 'write a conversation with "label": true' in str(caught.value.problems[0])


def test_steps_between_evaluations_and_options_of_adamw_are_the_recipes(tmp_path: Path, base_model: Path) -> None:
    options = {"eval_steps": 2, "early_stopping_patience": 0, "num_train_epochs": 2, "learning_rate": 1e-3}
    training = {"per_device_train_batch_size": 4, **options}
    steps, weights = {}, {}
    for name, more in (("plain", {}), ("decay", {"weight_decay": 0.9, "adam_beta1": 0.5, "max_grad_norm": 0.01})):
        (tmp_path / name).mkdir()
        made = train(recipe(tmp_path / name, base_model, "lora", training={**training, **more}), tmp_path / "v", QUIET)
        assert made is not None
        steps[name] = [metrics.step for metrics in made.metrics if metrics.eval_loss is not None]
        weights[name] = made.facts["digest"]
    assert steps["plain"] == steps["decay"] == [0, 2, 4, 6]
    assert weights["plain"] != weights["decay"]


def test_dpo_wants_pairs_and_lora_wants_conversations(tmp_path: Path, base_model: Path) -> None:
    wanted = recipe(tmp_path, base_model, "dpo")
    (tmp_path / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="in a file of preference pairs"):
        train(wanted, tmp_path / "var", QUIET)


@pytest.mark.numeric
def test_the_parity_vectors_are_what_the_library_computes_on_the_served_base(lora: Run, base_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.bfloat16)
    tuned = PeftModel.from_pretrained(base, lora.directory, autocast_adapter_dtype=False).eval()
    rows = json.loads((lora.directory / "parity.json").read_bytes())["rows"]
    assert len(rows) == lora.facts["data"]["valid"]["rows"]
    in_bf16, exact = loss_token_logprobs(tuned, rows), loss_token_logprobs(tuned.float(), rows)
    assert_as_exact([value for row in rows for value in row["adapter"]], in_bf16, exact)
    assert lora.facts["on_bf16_base"]["mean_logprob_change"] > 0.05
    assert [row["base"] for row in rows] != [row["adapter"] for row in rows]


@pytest.mark.numeric
def test_a_merged_model_answers_as_base_and_adapter_do(lora: Run, base_model: Path, tmp_path: Path) -> None:
    merged = merge(lora.directory, tmp_path / "merged")
    assert merged.differences is not None
    assert merged.differences.mean < 1.5 * merged.differences.of_bf16
    assert not (tmp_path / "base-model").exists(), "the run's own base is found, not another one built"
    assert (tmp_path / "merged" / "chat_template.jinja").is_file()
    record = json.loads((tmp_path / "merged" / "merge.json").read_bytes())
    assert record["adapter_training"]["digest"] == lora.facts["digest"]


@pytest.mark.numeric
def test_a_merge_that_answers_otherwise_is_not_written(
    lora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PeftConfig, "scaling", lambda config, module: 0.5 * config.lora_alpha / config.r)
    with pytest.raises(RunError, match="answers differently"):
        merge(lora.directory, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_from_elsewhere_is_merged_into_the_base_that_it_names_or_asks_for_it(
    lora: Run, base_model: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(lora.directory, tmp_path / "elsewhere")
    (elsewhere / "run.json").unlink()
    config = json.loads((elsewhere / "adapter_config.json").read_bytes())
    for named, said in (
        ("who/knows", "was trained on who/knows, which is not on this machine"),
        ("", "does not name its base model"),
    ):
        (elsewhere / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
        with pytest.raises(RunError, match=said):
            merge(elsewhere, tmp_path / "merged")
    (elsewhere / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base_model)}))
    merged = merge(elsewhere, tmp_path / "merged")
    assert merged.differences is not None
    assert merged.differences.mean > 0


def test_an_adapter_of_another_base_is_not_merged(lora: Run, base_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in base_model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "config.json").write_text((base_model / "config.json").read_text() + " ")
    with pytest.raises(RunError, match="base_config_sha256"):
        merge(lora.directory, tmp_path / "merged", str(other))
    assert not (tmp_path / "merged").exists()


def test_a_row_is_found_in_the_run_that_saw_it_and_in_no_other(lora: Run) -> None:
    data_dir = lora.directory.parent.parent
    row = resolve_row(f"{data_dir.parent / 'train.jsonl'}:3")
    search = find_row_uses(row, data_dir)
    (seen,) = search.found
    assert (seen.run, seen.line, seen.digest) == (lora.directory.name, 3, lora.facts["digest"])
    assert seen.part in ("train", "valid")
    assert find_row_uses(row[:12], data_dir).found == (seen,)
    assert find_row_uses("0" * 64, data_dir).found == ()
    parts = [json.loads(line)["part"] for line in (lora.directory / "rows.jsonl").read_text().splitlines()]
    assert (parts.count("train"), parts.count("valid")) == (12, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [("hello", "hello is not a row"), ("abc123", "is not a row"), ("{file}:99", "has no row at line 99")],
)
def test_what_is_no_row_is_one_sentence(lora: Run, text: str, said: str) -> None:
    file = lora.directory.parent.parent.parent / "train.jsonl"
    with pytest.raises(RunError, match=said):
        resolve_row(text.format(file=file))


def test_each_trial_of_a_sweep_is_the_run_its_recipe_would_be_alone(tmp_path: Path, base_model: Path) -> None:
    swept = recipe(tmp_path, base_model, "lora", sweep={"r": (8,), "learning_rate": (1e-5, 1e-3), "seed": (0,)})
    outcome = train_sweep(swept, tmp_path / "var", QUIET)
    assert [trial.learning_rate for trial in outcome.trials] == [1e-5, 1e-3]
    assert outcome.best == 1
    assert outcome.trials[1].eval_loss < outcome.trials[0].eval_loss
    alone = train(swept.trials()[1], tmp_path / "alone", QUIET)
    assert alone is not None
    assert outcome.run.facts["digest"] == alone.facts["digest"]
    assert (outcome.run.directory / "sweep.svg").read_text().startswith("<svg ")
    assert len(json.loads((outcome.run.directory / "sweep.json").read_bytes())["trials"]) == 2


def test_a_sweep_needs_something_to_choose_from_and_by(tmp_path: Path, base_model: Path) -> None:
    with pytest.raises(RecipeError, match="lists nothing to choose from"):
        train_sweep(recipe(tmp_path, base_model, "lora"), tmp_path / "var", QUIET)
    blind = recipe(tmp_path, base_model, "lora", sweep={"r": (8, 16)}, valid_fraction=0.0)
    with pytest.raises(RecipeError, match="nothing is held out"):
        train_sweep(blind, tmp_path / "var", QUIET)
