"""The whole loop on real parts: rows somebody wrote become a served adapter that measurably helps."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Served

EXAMPLE = ROOT / "examples" / "support-triage"
FOREIGN_ROWS = [
    {
        "instruction": f"Name the colour of item {number}.",
        "input": f"Item {number} is painted {colour}.",
        "output": f"Item {number} is {colour}.",
    }
    for number in range(40)
    for colour in ("red", "green", "blue")
]


@pytest.mark.timeout(1800)
def test_the_examples_adapter_beats_the_base_by_the_measured_table(served: Served, tmp_path: Path) -> None:
    checked = served.turntable("data", "check", EXAMPLE / "train.jsonl", EXAMPLE / "test.jsonl")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (served.data_dir / "base-model").symlink_to(ROOT / "var" / "base-model")
    run = tmp_path / "run"
    trained = served.turntable("train", EXAMPLE / "recipe.toml", "--out", run, "--promote")
    assert trained.returncode == 0, trained.stderr
    report = tmp_path / "report.json"
    compared = served.turntable(
        *("compare", EXAMPLE / "task.toml", "--require", "support-triage:schema_valid=0.9", "--json", report),
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
    document = json.loads(report.read_text())
    assert document["gate"]["verdict"] == "PROMOTE"
    assert document["task"]["changed"] == []
    arms = {arm["name"]: arm for arm in document["arms"]}
    base, prompted, adapter = (arms[name]["metrics"] for name in ("base", "prompted", "support-triage"))
    assert base["schema_valid"]["value"] <= 0.1
    assert adapter["schema_valid"]["value"] >= 0.9
    assert adapter["category"]["interval_95"][0] > base["category"]["interval_95"][1]
    assert adapter["category"]["value"] >= prompted["category"]["value"] + 0.4
    assert arms["support-triage"]["cost_nano_usd"]["per_correct"] > 0


@pytest.mark.timeout(1200)
def test_rows_of_a_foreign_shape_become_a_served_adapter(served: Served, tmp_path: Path) -> None:
    (tmp_path / "foreign.json").write_text(json.dumps(FOREIGN_ROWS))
    refused = served.turntable("data", "check", tmp_path / "foreign.json")
    assert refused.returncode == 1
    assert "--from alpaca" in refused.stdout + refused.stderr
    rows = tmp_path / "rows.jsonl"
    prepared = served.turntable("data", "prepare", tmp_path / "foreign.json", "--from", "alpaca", "--out", rows)
    assert prepared.returncode == 0, prepared.stderr
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'name = "colours"\n'
        f'base_model = "{ROOT / "var" / "base-model"}"\n'
        'train = "rows.jsonl"\n'
        "[training]\nlearning_rate = 5e-4\nnum_train_epochs = 1\n"
    )
    trained = served.turntable("train", recipe, "--promote")
    assert trained.returncode == 0, trained.stderr
    completion = served.openai.chat.completions.create(
        model="colours", messages=[{"role": "user", "content": "Name the colour."}], max_tokens=8
    )
    assert completion.choices[0].finish_reason in ("stop", "length")


def test_a_broken_row_stops_the_training_and_is_named(served: Served, tmp_path: Path) -> None:
    lines = (EXAMPLE / "train.jsonl").read_text().splitlines()
    lines[16] = lines[16].replace('"assistant"', '"asistant"')
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "broken"\ntrain = "train.jsonl"\n')
    result = served.turntable("train", recipe, "--out", tmp_path / "run")
    assert result.returncode == 2
    assert "train.jsonl:17:" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
