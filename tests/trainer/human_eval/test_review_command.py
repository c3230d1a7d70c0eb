"""`turntable review` as typed: results join the decision, rated pairs become training data."""

import json
import signal
import subprocess
from pathlib import Path

import httpx

from tests.conftest import TURNTABLE
from tests.trainer import commands
from tests.trainer.commands import run
from tests.trainer.human_eval.contests import ARM, ITEMS, compared
from trainer.eval.report import ComparisonReport


def test_people_who_prefer_the_other_arm_turn_the_verdict_and_their_choices_become_pairs(tmp_path: Path) -> None:
    task_file, report = compared(tmp_path)
    var = tmp_path / "var"
    assert run(commands.review, "results", task_file, "--data-dir", var).exit_code == 2
    command = [TURNTABLE, "review", "rate", str(task_file), "--data-dir", str(var)]
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background; it ends by Ctrl-C all the same
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, ignored)
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        assert first == f"{ITEMS - 1} items to rate, 1 have identical answers\n"
        url = httpx.URL(second.split()[1])
        rate_all(url, "ana", prefers="worse")
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
        assert process.wait(30) == 0
    assert f"One rater preferred secret-base on {ITEMS - 1} of {ITEMS - 1} items" in said
    assert ComparisonReport.read(report).human is not None
    result = run(commands.review, "results", task_file, "--data-dir", var, "--json")
    assert result.exit_code == 1, "people prefer the other arm"
    human = json.loads(result.stdout)
    assert (human["arm"], human["won"], human["lost"], human["identical"]) == (ARM, 0, ITEMS - 1, 1)
    unheard = run(
        commands.review, "results", task_file, "--data-dir", var, "--record", "--gateway", "http://127.0.0.1:9"
    )
    assert (unheard.exit_code, unheard.stderr.startswith("error: ")) == (2, True)
    decided = run(commands.report, report, "--data-dir", var)
    assert decided.stdout.startswith("DO NOT DEPLOY: The figures would allow it, people do not")

    pairs = tmp_path / "pairs.jsonl"
    exported = run(commands.review, "export", task_file, "--out", pairs, "--data-dir", var)
    assert exported.exit_code == 0
    assert "these pairs are from the task's test data" in exported.stderr
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert len(rows) == ITEMS - 1
    assert all("worse" in row["preferred_output"][0]["content"] for row in rows)
    checked = run(commands.data, "check", pairs, "--json")
    document = json.loads(checked.stdout)
    assert (document["files"][0]["problem_count"], document["files"][0]["kinds"]) == (0, {"pairs": ITEMS - 1})


def rate_all(url: httpx.URL, rater: str, *, prefers: str) -> None:
    headers = {"x-review-token": url.params["token"]}
    with httpx.Client(base_url=url.copy_with(query=None), headers=headers, trust_env=False) as client:
        state = client.post("/next", json={"rater": rater}).json()
        while item := state["item"]:
            side = "left" if prefers in item["left"] else "right"
            state = client.post("/rate", json={"rater": rater, "item": item["item"], "choice": side}).json()
