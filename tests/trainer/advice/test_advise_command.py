"""`turntable advise` as typed: from a file, in an interview, with data; and what runs do with its answer."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.trainer import commands
from tests.trainer.commands import run
from tests.trainer.conftest import WriteJsonl, chat
from tests.trainer.eval.conftest import SCHEMA, TASK, questions
from tests.trainer.scripted_gateway import KEY
from trainer.advice.advice import Advice, advice_of_run, newest_advice
from trainer.errors import RecipeError

CASE = """
name = "triage"
need = "do"
kind = "style"
metric = "category"
bar = 0.9
prompt_tried = true
prompt_score = {score}
facts_change = "never"
data = ["rows.jsonl"]
"""


def case_file(folder: Path, score: float) -> Path:
    path = folder / "case.toml"
    path.write_text(CASE.format(score=score), encoding="utf-8")
    return path


def test_advice_from_a_file_counts_its_data_is_kept_and_answers_as_json(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(
        *(chat(f"question {number}", f"answer {number}") for number in range(99)),
        chat("question 7", "answer 7"),
        name="rows.jsonl",
    )
    result = run(commands.advise, case_file(tmp_path, 0.1), "--data-dir", tmp_path / "var", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["decided"]["answer"], document["decided"]["rule"]) == ("NOT_YET", "too_few")
    assert document["case"]["examples"] == 99, "copies do not count"
    assert document["measured"]["data"]["files"][0]["rows"] == 100
    kept = newest_advice(tmp_path / "var", "triage")
    assert kept is not None
    assert Advice.read(kept).decided.rule == "too_few"
    assert newest_advice(tmp_path / "var", "tri") is None


def test_the_prompted_base_is_measured_on_held_out_rows(
    gateway_url: str, jsonl: WriteJsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNTABLE_API_KEY", KEY)
    monkeypatch.setenv("TURNTABLE_ADMIN_KEY", KEY)
    jsonl(*questions(9), *questions(12, '{"category": "shipping"}')[9:], name="test.jsonl")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    task = tmp_path / "task.toml"
    task.write_text(f'{TASK}prompt = "Say billing."\n', encoding="utf-8")
    case = tmp_path / "case.toml"
    case.write_text('name = "t"\nneed = "do"\nmetric = "category"\nbar = 0.9\n', encoding="utf-8")
    options = ("--task", task, "--gateway", gateway_url, "--data-dir", tmp_path / "var", "--json")
    result = run(commands.advise, case, *options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["decided"]["rule"] == "eighty_percent"
    assert document["case"]["prompt_score"] == 0.75
    measured = document["measured"]["prompt"]["arms"]
    assert set(measured) == {"base", "prompted", "constrained"}
    assert measured["prompted"]["of"] == 12
    assert document["come_back_on"] is not None
    case.write_text('name = "t"\nmetric = "rouge1"\n', encoding="utf-8")
    refused = run(commands.advise, case, *options)
    assert (refused.exit_code, "does not measure rouge1" in refused.stderr) == (2, True)


def test_the_interview_leaves_out_what_does_not_apply_and_asks_again_what_it_cannot_understand(tmp_path: Path) -> None:
    said = ["know", "perhaps", "style", "rouge1", "80%", "yes", "0.3", "1,000", "", "", "never", "yes", "no", ""]
    result = CliRunner().invoke(
        commands.advise, ["--name", "faq", "--data-dir", str(tmp_path)], input="".join(f"{line}\n" for line in said)
    )
    assert result.exit_code == 0, result.output
    path = newest_advice(tmp_path, "faq")
    assert path is not None
    advice = Advice.read(path)
    assert (advice.answer, advice.decided.rule) == ("RETRIEVE", "private_knowledge")
    assert (advice.case.bar, advice.case.requests_per_day, advice.case.examples) == (0.8, 1000, None)
    assert "rarest class" not in result.output
    assert "CTO tunes for proprietary knowledge" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('name = "x"\nneed = "magic"\n', "need is 'magic'"),
        ('name = "x"\nvolume = 3\n', "volume is not a field"),
        ('name = "x"\nprompt_tried = false\nprompt_score = 0.3\n', "correct one of them"),
        ('name = "x"\ndata = ["nowhere.jsonl"]\n', "nowhere.jsonl cannot be read"),
    ],
)
def test_a_case_that_cannot_be_used_is_one_sentence(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "case.toml").write_text(text, encoding="utf-8")
    result = run(commands.advise, tmp_path / "case.toml", "--data-dir", tmp_path / "var")
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not (tmp_path / "var").exists()


def test_training_against_advice_needs_a_reason_which_the_run_records(jsonl: WriteJsonl, tmp_path: Path) -> None:
    jsonl(chat(), name="rows.jsonl")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "triage"\ntrain = "rows.jsonl"\n', encoding="utf-8")
    var = tmp_path / "var"
    assert advice_of_run("triage", var, None, None) is None
    run(commands.advise, case_file(tmp_path, 0.72), "--data-dir", var)
    refused = run(commands.train, recipe, "--data-dir", var)
    assert refused.exit_code == 2
    assert "the advice for triage is PROMPT" in refused.stderr
    assert "--despite-advice REASON" in refused.stderr
    kept = advice_of_run("triage", var, None, "the bar is contractual")
    assert kept is not None
    assert (kept["answer"], kept["despite"]) == ("PROMPT", "the bar is contractual")
    with pytest.raises(RecipeError, match="there is no advice for other"):
        advice_of_run("other", var, None, "just so")


def test_the_example_would_be_advised_to_train_a_pilot(tmp_path: Path) -> None:
    case = ROOT / "examples" / "support-triage" / "case.toml"
    result = run(commands.advise, case, "--data-dir", tmp_path / "var", "--json")
    document = json.loads(result.stdout)
    assert document["decided"]["rule"] == "pilot"
    assert document["case"]["examples"] == 480
