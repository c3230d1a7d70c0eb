"""The commands as typed: output, exit codes, and what they must not import."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import pytest

from gateway.releases.promotion_gate import ComparisonVerdict
from tests.conftest import ROOT
from tests.trainer import commands
from tests.trainer.commands import run
from tests.trainer.conftest import WriteJsonl, chat
from tests.trainer.scripted_gateway import KEY, POSTED, RIGHT

TASK = 'name = "t"\ndata = "test.jsonl"\njson_schema = "schema.json"\nfields = ["category"]\nmax_tokens = 32\n'


def test_train_refuses_broken_data_with_its_line(jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = jsonl(chat(), {"messages": [{"role": "asistant", "content": "x"}]})
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\ntrain = "train.jsonl"\n', encoding="utf-8")
    result = run(commands.train, recipe, "--data-dir", tmp_path / "var")
    assert result.exit_code == 2
    assert f'{path}:2: messages[0].role is "asistant"; use system, user, assistant or tool' in result.stderr
    assert "error: the data has 1 problem; fix it and run again." in result.stderr
    assert not (tmp_path / "var").exists()


def test_train_refuses_an_unknown_field(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\ntrain = "train.jsonl"\nlr = 1\n', encoding="utf-8")
    result = run(commands.train, recipe)
    assert result.exit_code == 2
    assert "lr is not a field" in result.stderr


def test_train_into_an_unwritable_place_is_one_sentence(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(chat(), chat("again?"))
    (tmp_path / "recipe.toml").write_text('name = "x"\ntrain = "train.jsonl"\n', encoding="utf-8")
    (tmp_path / "var").write_text("", encoding="utf-8")
    result = run(commands.train, tmp_path / "recipe.toml", "--data-dir", tmp_path / "var")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "cannot be written" in result.stderr


@pytest.fixture
def task(jsonl: WriteJsonl, tmp_path: Path) -> Path:
    jsonl(chat("easy", RIGHT), chat("hard", RIGHT), name="test.jsonl")
    (tmp_path / "schema.json").write_text("{}", encoding="utf-8")
    (tmp_path / "task.toml").write_text(TASK, encoding="utf-8")
    return tmp_path / "task.toml"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "base"], "there is no key: set TURNTABLE_API_KEY"),
        (["--models", "base", "--require", "speed=1"], "--require speed=1: there is no metric 'speed'; use correct"),
        (["--models", "base", "--require", "category"], "--require category: write a metric and its minimum"),
        (["--models", "base", "--require", "mine:category=1"], "mine is not an arm; there are base"),
        (["--models", ","], "--models names no model"),
    ],
)
def test_compare_refuses_what_it_cannot_do(
    task: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.delenv("TURNTABLE_API_KEY", raising=False)
    monkeypatch.delenv("TURNTABLE_ADMIN_KEY", raising=False)
    result = run(commands.compare, task, *arguments, "--data-dir", task.parent / "var")
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("models", "required", "code", "said"),
    [
        ("wrong,good", "category=1", 0, ""),
        ("good,wrong", "category=1", 1, "failed: wrong: category is 0.000, below the required 1"),
        ("good,wrong", "good:category=1", 0, ""),
        ("good,flaky", "category=0", 2, "test.jsonl:2: flaky gave no answer: Error code: 400 - too hard"),
        ("nobody", "category=0", 2, "error: the gateway refuses model nobody"),
    ],
)
def test_compare_ends_with_a_verdict(
    task: Path, monkeypatch: pytest.MonkeyPatch, gateway_url: str, models: str, required: str, code: int, said: str
) -> None:
    monkeypatch.setenv("TURNTABLE_API_KEY", KEY)
    options = ["--models", models, "--require", required, "--gateway", gateway_url, "--data-dir", task.parent / "var"]
    result = run(commands.compare, task, *options)
    assert result.exit_code == code
    assert said in result.stderr


def test_compare_keeps_the_report_and_every_answer(
    task: Path, monkeypatch: pytest.MonkeyPatch, gateway_url: str, tmp_path: Path
) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "admin.key").write_text(f"{KEY}\n", encoding="utf-8")
    monkeypatch.delenv("TURNTABLE_API_KEY", raising=False)
    monkeypatch.delenv("TURNTABLE_ADMIN_KEY", raising=False)
    options = ["--models", "good,wrong", "--gateway", gateway_url, "--data-dir", tmp_path / "var"]
    result = run(commands.compare, task, *options, "--json", tmp_path / "report.json")
    assert result.exit_code == 0
    assert "schema-valid" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["complete"] is True
    wrong = report["arms"][1]
    assert wrong["metrics"]["category"] == {"value": 0, "of": 2, "interval_95": ANY}
    answers = (tmp_path / "report.answers.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in answers[1:]]
    assert {(a["arm"], a["line"]) for a in asked} == {("good", 1), ("good", 2), ("wrong", 1), ("wrong", 2)}
    printed = json.loads(run(commands.compare, task, *options, "--json", "-").stdout)
    assert printed["task"] == report["task"]
    assert [arm["metrics"] for arm in printed["arms"]] == [arm["metrics"] for arm in report["arms"]]


def test_compare_decides_records_and_says_what_it_decided(
    task: Path, monkeypatch: pytest.MonkeyPatch, gateway_url: str
) -> None:
    monkeypatch.setenv("TURNTABLE_API_KEY", KEY)
    options = ["--gateway", gateway_url, "--data-dir", task.parent / "var"]
    frozen = run(commands.compare, "freeze", task)
    assert (frozen.exit_code, frozen.stdout.startswith(f"{task.parent / 'task.frozen.json'}: 2 items")) == (0, True)
    task.write_text(f"{TASK}[gate]\nmin_items = 2\n", encoding="utf-8")
    decided = run(commands.compare, task, "--adapter", "wrong", *options)
    assert decided.exit_code == 1
    assert "DO NOT DEPLOY" in decided.stdout
    assert "fell by 100 points" in decided.stdout
    unsure = run(commands.compare, "run", task, "--adapter", "good", *options, "--record")
    assert unsure.exit_code == 2
    assert "which version of good answered is not known" in unsure.stderr
    task.write_text(TASK, encoding="utf-8")
    assert "NOT ENOUGH ITEMS" in run(commands.compare, task, "--adapter", "good", *options).stdout


def test_a_verdict_is_recorded_on_the_very_version_that_answered(
    task: Path, monkeypatch: pytest.MonkeyPatch, gateway_url: str
) -> None:
    monkeypatch.setenv("TURNTABLE_ADMIN_KEY", KEY)
    report = task.parent / "report.json"
    options = ["--gateway", gateway_url, "--data-dir", task.parent / "var", "--json", report, "--record"]
    result = run(commands.compare, task, "--adapter", "good", *options)
    assert (result.exit_code, "recorded NOT_ENOUGH_ITEMS on good@v2" in result.stderr) == (1, True), result.stderr
    document = json.loads(report.read_text(encoding="utf-8"))
    path, body = POSTED.pop()
    assert path == "/admin/v1/adapters/good/versions/v2/verdict"
    assert body == {
        "verdict": "NOT_ENOUGH_ITEMS",
        "digest": "2" * 64,
        "task_sha256": document["task"]["sha256"],
        "base_sha256": "b" * 64,
        "template_sha256": "c" * 64,
        "complete": True,
        "checks": document["gate"]["checks"],
        "summary": document["gate"]["summary"],
        "human": None,
    }
    ComparisonVerdict.model_validate(body)  # the gateway takes every field of it
    unknown = run(commands.compare, task, "--adapter", "good@v9", *options)
    assert (unknown.exit_code, "there is no version good@v9" in unknown.stderr) == (2, True)


def test_help_loads_neither_torch_nor_an_http_client() -> None:
    script = (
        "import sys\n"
        "from turntable.cli import main\n"
        "sys.argv = ['turntable', 'train', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "loaded = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'httpx', 'openai'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "Train an adapter from a recipe" in shown


BEFORE_TORCH = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("policy", os.environ.get("OMP_WAIT_POLICY"))
            os._exit(0)

sys.meta_path.insert(0, Finder())
from turntable.cli import main
main()
"""


@pytest.mark.parametrize(
    "command",
    [("train", "recipe.toml"), ("train", "--verify-run", "."), ("export", ".", "--format", "merged", "--out", "m")],
)
def test_threads_are_told_to_sleep_before_torch_is_imported(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Threads that spin while they wait make training beside an engine three times as dear; torch reads this once."""
    (tmp_path / "recipe.toml").write_text('name = "a"\nbase_model = "none"\ntrain = "rows.jsonl"\n')
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_TORCH, *command], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.stdout.split()[-2:] == [b"policy", b"PASSIVE"], done.stderr
