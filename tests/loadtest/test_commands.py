"""The other commands as a user meets them: sweep, capacity, compare, report, trace."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from loadtest.cli import app
from loadtest.mock_engine import Fault, MockSettings, serving
from tests.waiting import wait_until


def loadtest(*arguments: object) -> Result:
    clean: dict[str, str | None] = dict.fromkeys(
        ("TURNTABLE_API_KEY", "TURNTABLE_ADMIN_KEY", "TURNTABLE_DATA_DIR", "TURNTABLE_GATEWAY_URL")
    )
    return CliRunner().invoke(app, list(map(str, arguments)), env={**clean, "COLUMNS": "120"})


def test_a_run_with_repeats_and_all_outputs(tmp_path: Path) -> None:
    json_file, csv_file, html_file = tmp_path / "r.json", tmp_path / "r.csv", tmp_path / "r.html"
    with serving() as server:
        server.engine.adapters |= {"a": "a", "b": "b"}
        result = loadtest(
            "run", "--url", server.url, "--requests", 6, "--repeats", 2, "--mixes", "base;a;a,b", "--usd-per-hour", 3,
            "--slo-ttft-ms", 60_000, "--json", json_file, "--csv", csv_file, "--html", html_file,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Answered per second, of what base had" in result.stdout
    document = json.loads(json_file.read_text())
    assert [level["label"] for level in document["levels"]] == ["base", "a", "2 models"]
    assert document["levels"][0]["estimates"]["total.ttft.p50_ms"]["half_width"] is not None
    with csv_file.open() as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"total", "base", "a", "b"}
    assert "<svg" in html_file.read_text()


def test_a_sweep_over_users_shows_every_level(tmp_path: Path) -> None:
    json_file = tmp_path / "sweep.json"
    with serving(MockSettings(ttft_ms=2, max_num_seqs=1)) as server:
        result = loadtest(
            "sweep",
            "--url",
            server.url,
            "--users",
            "1,4,16",
            "--requests",
            20,
            "--json",
            json_file,
            "--usd-per-hour",
            1,
        )
    document = json.loads(json_file.read_text())
    assert document["kind"] == "sweep"
    # One at a time: the second level brings no more answers, unless the machine gave the first one too little time.
    assert [level["load"] for level in document["levels"]] in ([1, 4], [1, 4, 16])
    assert "1 users" in result.stdout


def test_every_run_of_a_sweep_keeps_its_raw_timestamps(tmp_path: Path) -> None:
    records = tmp_path / "raw.jsonl"
    with serving() as server:
        loadtest("sweep", "--url", server.url, "--users", "1,2", "--requests", 3, "--records", records)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.2.jsonl", "raw.jsonl"]
    assert [len(path.read_bytes().splitlines()) for path in sorted(tmp_path.iterdir())] == [3, 3]


def test_a_capacity_needs_a_limit_and_a_broken_server_has_none() -> None:
    with serving(MockSettings(fault=Fault.ERROR_500)) as server:
        assert loadtest("capacity", "--url", server.url).exit_code == 2
        result = loadtest(
            "capacity",
            "--url",
            server.url,
            "--p99-ttft-ms",
            1e6,
            "--requests",
            3,
            "--most-probes",
            2,
            "--from-rate",
            500,
        )
    assert result.exit_code == 1
    assert "no rate was found within them" in result.stdout


def test_comparing_a_report_with_itself_finds_noise(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with serving() as server:
        assert loadtest("run", "--url", server.url, "--requests", 4, "--repeats", 2, "--json", file).exit_code == 0
    result = loadtest("compare", file, file)
    assert (result.exit_code, "Verdict: noise." in result.stdout) == (0, True)


def test_a_report_that_got_worse_exits_1(tmp_path: Path) -> None:
    def written(name: str, ttft_ms: float) -> Path:
        reports = [{"settings": {}, "total": {"ttft": {"p50_ms": ttft_ms + repeat / 10}}} for repeat in range(3)]
        levels = [{"label": "run", "reports": reports}]
        (tmp_path / name).write_text(json.dumps({"tool": "turntable loadtest", "verdict": "valid", "levels": levels}))
        return tmp_path / name

    result = loadtest("compare", written("a.json", 10), written("b.json", 20))
    assert (result.exit_code, "Verdict: worse." in result.stdout) == (1, True)
    assert loadtest("compare", tmp_path / "b.json", tmp_path / "a.json").exit_code == 0


def test_the_report_can_be_made_again_from_the_records_with_another_slo(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    with serving(MockSettings(ttft_ms=5)) as server:
        loadtest("run", "--url", server.url, "--requests", 5, "--records", records)
    result = loadtest("report", records, "--slo-ttft-ms", "1", "--usd-per-hour", "2")
    assert result.exit_code == 0, result.output
    assert "- per good request" in result.stdout
    files = [tmp_path / name for name in ("r.json", "r.csv", "r.html")]
    again = loadtest("report", records, "--json", files[0], "--csv", files[1], "--html", files[2])
    assert again.exit_code == 0, again.output
    assert json.loads(files[0].read_text())["total"]["succeeded"] == 5
    assert "<svg" in files[2].read_text()
    assert "http://unknown" not in files[2].read_text()
    assert "SLO in ms" in loadtest("report", "--help").stdout
    records.write_text(records.read_text() + "{}\n")
    broken = loadtest("report", records)
    assert (broken.exit_code, broken.stderr) == (2, f"error: {records}:6: is no record of a request.\n")


def test_the_plan_can_be_printed_as_a_trace() -> None:
    arguments = ["trace", "--models", "a,b", "--rate", 5, "--requests", 4, "--popularity", "weights:1,0"]
    result = loadtest(*map(str, arguments))
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert [row["adapter"] for row in rows] == ["a"] * 4
    assert loadtest("trace", "--requests", "4").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--trace", "none.csv"),
        ("run", "--popularity", "often"),
        ("run", "--output-tokens", "many"),
        ("run", "--ramp", "up"),
        ("sweep", "--rates", "1,x"),
        ("sweep", "--users", "0"),
        ("compare", "none.json", "none.json"),
        ("report", "none.jsonl"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(arguments: tuple[str, ...]) -> None:
    result = loadtest(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_ctrl_c_ends_all_processes_with_a_partial_report(tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    with serving(MockSettings(ttft_ms=5)) as server:
        arguments = ["--url", server.url, "--requests", "1000000", "--concurrency", "2", "--processes", "2"]
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from loadtest.cli import app; app()",
                "run",
                *arguments,
                "--json",
                str(report_file),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # More than the warm-up: both processes are under way, or soon are.
        wait_until(lambda: server.engine.finished >= 20)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    report = json.loads(report_file.read_text())
    assert report["partial"] is True
    assert report["total"]["succeeded"] >= 1
    assert "PARTIAL" in stdout or "INVALID" in stdout
    assert (process.returncode, stderr) == (1, "")
