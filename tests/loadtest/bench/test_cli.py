"""`turntable loadtest bench` as a user meets it, with the real gateway in front of the mock engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

from loadtest.bench.machine import read_processes

TURNTABLE = Path(sys.executable).with_name("turntable")


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(TURNTABLE), "loadtest", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_run_measures_the_gateway_beside_the_engine_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = {process.pid for process in read_processes()}
    written = tmp_path / "run.json"
    options = ("--systems", "direct,turntable", "--rounds", "1", "--seconds", "0.3", "--json", written)
    done = run("bench", *options, cwd=tmp_path)
    # 1 is a missed bar, as on a busy machine: a verdict, not an error.
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(written.read_text())
    samples = {(sample["system"], sample["workload"]): sample for sample in document["samples"]}
    assert {workload for _, workload in samples} == {"plain", "burst", "load70", "paced", "streams256"}
    for sample in samples.values():
        assert sample["completed"] > 0
        assert sample["failed"] == 0, sample["errors"]
    assert samples["turntable", "plain"]["cpu_us_per_request"] > 0
    assert len(document["cold_start_s"]["turntable"]) == 3
    assert document["left_out"] == ["relay", "vllm-router", "vllm-router-rr", "litellm"]
    assert "| CPU per plain request, over vllm-router |" in done.stdout
    left = [process for process in read_processes() if process.parent == os.getpid() and process.pid not in before]
    assert not left


def test_systems_that_are_not_installed_are_named_with_the_way_out(tmp_path: Path) -> None:
    refused = run("bench", cwd=tmp_path)
    assert refused.returncode == 2
    assert "vllm-router and vllm-router-rr and litellm left out: not installed in .bench" in refused.stderr
    assert "--systems direct,turntable,relay." in refused.stderr


def test_an_unknown_system_is_refused(tmp_path: Path) -> None:
    refused = run("bench", "--systems", "direct,nginx", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "No system is called nginx" in refused.stderr


def test_a_soak_reports_memory_over_requests(tmp_path: Path) -> None:
    written = tmp_path / "soak.json"
    done = run("soak", "--requests", "200", "--json", written, cwd=tmp_path)
    document = json.loads(written.read_text())
    assert (document["requests"], document["failed"], len(document["rss_mib"])) == (200, 0, 21)
    assert "| requests | 200 |" in done.stdout
