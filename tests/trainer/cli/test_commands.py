"""The commands as typed: output, exit codes, and what they must not import."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import pytest
import typer
from typer.testing import CliRunner, Result

import trainer.cli as commands
from tests.conftest import ROOT
from tests.trainer.conftest import WriteJsonl, chat
from tests.trainer.scripted_gateway import KEY, RIGHT

TASK = 'name = "t"\ndata = "test.jsonl"\njson_schema = "schema.json"\nfields = ["category"]\nmax_tokens = 32\n'


def run(app: typer.Typer, *arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_check_passes_clean_files(jsonl: WriteJsonl) -> None:
    result = run(commands.data, "check", jsonl(chat(), chat("again?")))
    assert result.exit_code == 0
    assert "train.jsonl: 2 rows, 0 problems, 0 exact duplicates" in result.stdout


def test_check_names_every_problem_and_fails(jsonl: WriteJsonl) -> None:
    path = jsonl(chat(), "{", {"messages": []})
    result = run(commands.data, "check", path)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"{path}:2: is not JSON: Expecting property name enclosed in double quotes at column 2",
        f"{path}:3: messages is []; give a list of messages",
    ]


def test_check_warns_of_rows_in_two_files_without_failing(jsonl: WriteJsonl) -> None:
    train, test = jsonl(chat()), jsonl(chat(), name="test.jsonl")
    result = run(commands.data, "check", train, test)
    assert result.exit_code == 0
    assert f"warning: {test}:1: is also in {train}:1" in result.stderr


def test_check_speaks_json(jsonl: WriteJsonl) -> None:
    result = run(commands.data, "check", jsonl("{broken"), "--json")
    assert result.exit_code == 2
    (file,) = json.loads(result.stdout)["files"]
    assert (file["rows"], file["problems"][0]["line"]) == (1, 1)


def test_very_many_problems_are_grouped_by_kind(jsonl: WriteJsonl) -> None:
    path = jsonl(*([{"messages": []}] * 60), "[]")
    result = run(commands.data, "check", path)
    assert result.stderr.splitlines() == [
        f"{path}:1: messages is []; give a list of messages (and 59 more rows alike)",
        f'{path}:61: is JSON but not an object; write {{"messages": [...]}}',
    ]
    assert len(json.loads(run(commands.data, "check", path, "--json").stdout)["files"][0]["problems"]) == 61


def test_prepare_converts_and_says_what_it_did(tmp_path: Path) -> None:
    source, out = tmp_path / "source.json", tmp_path / "out.jsonl"
    source.write_text('[{"instruction": "hi", "output": "I am {{name}}"}, {"instruction": "x", "output": ""}]')
    result = run(commands.data, "prepare", "--from", "alpaca", source, "--out", out)
    assert result.exit_code == 0
    assert f"{out}: 1 row written of 2 read, 1 left out, 1 warning" in result.stdout
    assert f"{source}:2: messages[1].content is empty" in result.stderr
    assert f"{source}:1: messages[1].content still holds the placeholder" in result.stderr
    assert run(commands.data, "prepare", "--from", "alpaca", source, "--out", out).exit_code == 2
    assert run(commands.data, "prepare", "--from", "alpaca", source, "--out", out, "--force").exit_code == 0


def test_preview_shows_what_is_learnt(jsonl: WriteJsonl, base_model: Path) -> None:
    result = run(commands.data, "preview", jsonl(chat("Where?", "Here.")), "--base-model", base_model.resolve())
    assert result.exit_code == 0
    assert "⟦Here.<|end|>⟧" in result.stdout
    assert "⟦Where?" not in result.stdout


def test_train_refuses_broken_data_with_its_line(jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = jsonl(chat(), {"messages": [{"role": "asistant", "content": "x"}]})
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\ntrain = "train.jsonl"\n', encoding="utf-8")
    result = run(commands.train, recipe, "--data-dir", tmp_path / "var")
    assert result.exit_code == 2
    assert f'{path}:2: messages[0].role is "asistant"; use system, user, assistant or tool' in result.stderr
    assert "error: the data has 1 problem; mend it and run again." in result.stderr
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


def test_interrupting_a_run_leaves_nothing_and_says_so(jsonl: WriteJsonl, tmp_path: Path, base_model: Path) -> None:
    jsonl(*(chat(f"Order {i}?", "late " * 50) for i in range(400)))
    recipe = f'name = "x"\nbase_model = "{base_model.resolve()}"\ntrain = "train.jsonl"\n'
    (tmp_path / "recipe.toml").write_text(f"{recipe}[training]\nnum_train_epochs = 50\n", encoding="utf-8")
    command = [sys.executable, "-m", "turntable", "train", str(tmp_path / "recipe.toml")]
    environment = os.environ | {"TURNTABLE_DATA_DIR": str(tmp_path / "var")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while "held-out loss" not in (line := process.stderr.readline()):
            assert line, "the run ended before it was interrupted"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted; no run was kept" in rest
    assert "Traceback" not in rest
    assert list((tmp_path / "var" / "runs").iterdir()) == []


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
        (["--models", "base", "--require", "speed=1"], "--require speed=1: there is no rate 'speed'; use schema_valid"),
        (["--models", "base", "--require", "category"], "--require category: write a rate and its least value"),
        (["--models", "base", "--require", "mine:category=1"], "mine is not among --models"),
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
    assert report["models"]["wrong"]["rates"]["category"] == {"value": 0, "hits": 0, "of": 2, "interval_95": ANY}
    answers = (tmp_path / "report.answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(json.loads(line)["model"], json.loads(line)["line"]) for line in answers] == [
        ("good", 1),
        ("good", 2),
        ("wrong", 1),
        ("wrong", 2),
    ]
    assert json.loads(run(commands.compare, task, *options, "--json", "-").stdout) == report | {"models": ANY}


def test_help_loads_neither_torch_nor_an_http_client() -> None:
    script = (
        "import sys, turntable\n"
        "sys.argv = ['turntable', 'train', '--help']\n"
        "try: turntable.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "loaded = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'httpx', 'openai'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "Train an adapter from a recipe" in shown
