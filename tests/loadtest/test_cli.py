"""`turntable loadtest run` as a user meets it: output, files, exit codes, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from loadtest.cli import app
from loadtest.mock_engine import Fault, MockSettings, serving
from loadtest.options import LoadOptions
from loadtest.records import RequestRecord
from tests.waiting import wait_until


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    clean: dict[str, str | None] = dict.fromkeys(
        ("TURNTABLE_API_KEY", "TURNTABLE_ADMIN_KEY", "TURNTABLE_DATA_DIR", "TURNTABLE_GATEWAY_URL")
    )
    return CliRunner().invoke(app, ["run", *arguments], env={**clean, "COLUMNS": "100", **(env or {})})


def test_a_clean_run_exits_0_and_shows_every_metric() -> None:
    with serving() as server:
        result = run("--url", server.url, "--requests", "6")
    assert result.exit_code == 0, result.output
    for word in ("TTFT", "ITL", "TPOT", "E2E", "req/s", "tok/s", "p99"):
        assert word in result.stdout


def test_failed_requests_exit_1_and_are_named() -> None:
    with serving(MockSettings(fault=Fault.DROP_MID_STREAM)) as server:
        result = run("--url", server.url, "--requests", "3")
    assert result.exit_code == 1
    assert "3 failed: truncated" in result.stdout


def test_a_suspicious_usage_is_said_in_the_table_output() -> None:
    with serving(MockSettings(tokens=4, fault=Fault.WRONG_USAGE)) as server:
        result = run("--url", server.url, "--requests", "2")
    assert "2 answers claim more tokens than chunks (10 tokens, 8 chunks in all)" in result.stdout


def test_the_report_and_the_records_are_written_as_json(tmp_path: Path) -> None:
    report_file, records_file = tmp_path / "report.json", tmp_path / "records.jsonl"
    with serving(MockSettings(tokens=3)) as server:
        result = run("--url", server.url, "--requests", "4", "--json", str(report_file), "--records", str(records_file))
    assert result.exit_code == 0
    report = json.loads(report_file.read_text())
    assert report["partial"] is False
    assert report["settings"]["concurrency"] == 8
    assert report["total"]["completion_tokens"] == 12
    assert "chunks with text" in report["definitions"]["itl"]
    records = [RequestRecord.from_line(line) for line in records_file.read_bytes().splitlines()]
    assert sorted(record.index for record in records) == [0, 1, 2, 3]
    assert all(len(record.chunk_s) == 3 for record in records)


def test_json_to_a_dash_is_all_that_is_printed() -> None:
    with serving() as server:
        result = run("--url", server.url, "--requests", "2", "--json", "-")
    assert json.loads(result.stdout)["total"]["succeeded"] == 2


def test_what_cannot_start_is_one_sentence_on_stderr_and_exit_2(tmp_path: Path, unused_tcp_port: int) -> None:
    with serving(MockSettings(api_key="right")) as server:
        wrong = [
            run("--url", f"http://127.0.0.1:{unused_tcp_port}"),
            run("--url", server.url, "--key", "wrong"),
            run("--url", server.url, "--key", "right", "--models", "base,nope"),
            run("--url", server.url, "--key", "right", "--prompts", str(tmp_path / "none.jsonl")),
            run("--url", server.url, "--key", "right", "--json", str(tmp_path / "no" / "report.json")),
            run("--url", "not an address"),
        ]
    for result in wrong:
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("variable", ["TURNTABLE_API_KEY", "TURNTABLE_ADMIN_KEY"])
def test_the_key_comes_from_the_environment(variable: str) -> None:
    with serving(MockSettings(api_key="tt-1")) as server:
        assert run("--url", server.url, "--requests", "1", env={variable: "tt-1"}).exit_code == 0


def test_the_api_key_goes_before_the_admin_key() -> None:
    env = {"TURNTABLE_API_KEY": "tt-api", "TURNTABLE_ADMIN_KEY": "tt-admin"}
    with serving(MockSettings(api_key="tt-api")) as server:
        assert run("--url", server.url, "--requests", "1", env=env).exit_code == 0


def test_a_local_gateways_admin_key_is_found_in_its_data_directory(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("tt-local\n")
    with serving(MockSettings(api_key="tt-local")) as server:
        result = run("--url", server.url, "--requests", "1", "--data-dir", str(tmp_path))
    assert result.exit_code == 0, result.output


def test_the_address_comes_from_the_environment_and_then_from_a_running_gateway(tmp_path: Path) -> None:
    with serving() as server, serving() as other:
        assert run("--requests", "1", env={"TURNTABLE_GATEWAY_URL": server.url}).exit_code == 0
        said = {"url": server.url, "pid": os.getpid()}
        (tmp_path / "gateway.json").write_text(json.dumps(said))
        assert run("--requests", "1", "--data-dir", str(tmp_path)).exit_code == 0
        assert run("--requests", "1", "--data-dir", str(tmp_path), "--url", other.url).exit_code == 0
        assert (server.engine.finished, other.engine.finished) == (4, 2)  # each run warms up with one


@pytest.mark.parametrize("option", ["--json", "--csv", "--html", "--records"])
def test_an_error_leaves_no_empty_file_and_what_was_there(tmp_path: Path, option: str, unused_tcp_port: int) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("an earlier report")
    for path in (new, old):
        assert run("--url", f"http://127.0.0.1:{unused_tcp_port}", option, str(path)).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert old.read_text() == "an earlier report"


def test_reports_replace_earlier_ones_and_go_into_pipes(tmp_path: Path) -> None:
    old, link = tmp_path / "old", tmp_path / "link"
    old.write_text("an earlier report")
    link.symlink_to(old)
    with serving() as server:
        assert run("--url", server.url, "--requests", "1", "--json", str(link), "--csv", "/dev/null").exit_code == 0
    assert link.is_symlink()
    assert json.loads(old.read_text())["verdict"] == "valid"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old"]


@pytest.mark.parametrize(
    ("url", "admin_url", "is_same"),
    [
        ("http://10.0.0.10:8080", "http://10.0.0.1", False),
        ("http://gw.example.com.evil.org", "http://gw.example.com", False),
        ("https://gw.example.com", "http://gw.example.com", False),
        ("http://gw.example.com:8080", "http://gw.example.com:80", False),
        ("http://gw.example.com/v1", "http://GW.example.com:80", True),
        ("https://gw.example.com:443/v1/", "https://gw.example.com", True),
    ],
)
def test_the_key_goes_to_the_same_origin_alone(url: str, admin_url: str, is_same: bool, tmp_path: Path) -> None:
    options = LoadOptions(url=url, admin_url=admin_url, key="tt-first", promote="a=1", data_dir=tmp_path)
    promotions = options.settings().promotions
    assert promotions is not None
    assert promotions.admin_key == ("tt-first" if is_same else None)


def test_ctrl_c_gives_a_report_on_what_was_answered_marked_partial(tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    settings = MockSettings(ttft_ms=5)
    with serving(settings) as server:
        arguments = ["--url", server.url, "--requests", "100000", "--concurrency", "2", "--json", str(report_file)]
        process = subprocess.Popen(
            [sys.executable, "-c", "from loadtest.cli import app; app()", "run", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: server.engine.finished >= 3)
        server.engine.settings = replace(settings, fault=Fault.HANG)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    report = json.loads(report_file.read_text())
    assert report["partial"] is True
    total = report["total"]
    # Two at a time: when the server has answered three, the client has read at least one of them.
    assert total["succeeded"] >= 1
    assert total["succeeded"] + total["unfinished"] == total["requests"]
    assert "PARTIAL" in stdout
    assert (process.returncode, stderr) == (1, "")
