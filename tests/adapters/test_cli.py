"""`turntable adapters`: exit codes, one-sentence errors, tables and JSON."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from adapters import AdminClient
from adapters.cli import app
from adapters.cli.versions import following
from tests.adapters.admin_documents import ENGINE, VERSION
from tests.adapters.conftest import AdminApi, Serve

LISTED = {"object": "list", "data": [VERSION | {"traffic": "live"}, VERSION | {"version": "v2", "traffic": ""}]}


def turntable_adapters(*arguments: str | Path, url: str, key: str | None = "tt-admin") -> Result:
    environment = {"TURNTABLE_GATEWAY_URL": url, "TURNTABLE_ADMIN_KEY": key, "COLUMNS": "200"}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def paths(api: AdminApi) -> list[str]:
    return [f"{request.method} {request.path}" for request in api.received]


def test_a_list_is_a_table_that_marks_the_live_version(serve: Serve) -> None:
    result = turntable_adapters("list", url=serve(LISTED).url)
    assert result.exit_code == 0
    first, second = [line for line in result.stdout.splitlines() if "1f2e3d4c5b6a" in line]
    assert "v1" in first
    assert "live" in first
    assert "v2" in second
    assert "live" not in second


def test_a_list_as_json_is_what_the_gateway_said(serve: Serve) -> None:
    result = turntable_adapters("list", "--json", url=serve(LISTED).url)
    assert json.loads(result.stdout) == LISTED["data"]


WATCH = {
    "bounds": {"min_requests": 20},
    "live": {"requests": 90, "errors": 0, "error_rate": 0.0, "p95_latency_ms": 12.5, "p95_ttft_ms": None},
    "canary": {"requests": 10, "errors": 1, "error_rate": 0.1, "p95_latency_ms": 13.5, "p95_ttft_ms": None},
}
CHANGE = {"state": "quarantined", "at": "2026-11-25T10:00:00Z", "actor": "admin", "reason": "no effect"}
PARITY = {
    "kind": "parity",
    "at": "2026-11-25T12:00:00Z",
    "actor": "admin",
    "document": {"verdict": "drift", "sentence": "acts 2.00 times as strongly"},
}
WHOLE: dict[str, Any] = {
    "name": "mine",
    "policy": {
        "live": "v1",
        "previous": None,
        "canary": {"version": "v2", "percent": 10.0},
        "shadow": None,
        "pinned": True,
    },
    "canary_watch": WATCH,
    "shadow_mirror": None,
    "in_work": [],
    "versions": [VERSION | {"traffic": "live", "history": [CHANGE], "evidence": [PARITY], "resident": ["engine-0"]}],
}


def test_an_adapter_is_shown_with_policy_history_and_what_its_canary_did(serve: Serve) -> None:
    api = serve(WHOLE, WHOLE)
    result = turntable_adapters("show", "mine", url=api.url)
    assert result.exit_code == 0, result.output
    for text in ("v2 10%", "12.5", "13.5", "engine-0", "no effect", "admin", "parity", "drift", "2.00 times"):
        assert text in result.stdout
    assert json.loads(turntable_adapters("show", "mine", "--json", url=api.url).stdout) == WHOLE
    assert paths(api) == ["GET /admin/v1/adapters/mine"] * 2


POLICY = {"name": "mine", **WHOLE["policy"]}


@pytest.mark.parametrize(
    ("words", "method", "path", "body"),
    [
        (["rollback", "mine"], "POST", "/rollback", {}),
        (["rollback", "mine", "--expect-live", "v3"], "POST", "/rollback", {"expect_live": "v3"}),
        (["canary", "mine", "v2", "10"], "POST", "/canary", {"version": "v2", "percent": 10}),
        (
            ["canary", "mine", "v2", "10", "--min-requests", "5", "--max-latency-ratio", "3"],
            "POST",
            "/canary",
            {"version": "v2", "percent": 10, "bounds": {"max_latency_ratio": 3, "min_requests": 5}},
        ),
        (["canary", "mine", "--off"], "DELETE", "/canary", None),
        (["shadow", "mine", "v2", "2.5"], "POST", "/shadow", {"version": "v2", "percent": 2.5}),
        (["shadow", "mine", "--off"], "DELETE", "/shadow", None),
        (["pin", "mine"], "POST", "/pin", {"pinned": True}),
        (["unpin", "mine"], "POST", "/pin", {"pinned": False}),
        (["withdraw", "mine"], "DELETE", "/live", None),
        (
            ["promote", "mine", "v2", "--override", "urgent", "--by", "Ada"],
            "POST",
            "/promote",
            {"version": "v2", "override": {"reason": "urgent", "by": "Ada"}},
        ),
        (["approve", "mine", "v2", "--reason", "read it"], "POST", "/versions/v2/approve", {"reason": "read it"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_traffic_commands_say_what_they_are_told(
    serve: Serve, words: list[str], method: str, path: str, body: dict[str, Any] | None
) -> None:
    api = serve(VERSION | POLICY)
    result = turntable_adapters(*words, "--json", url=api.url)
    assert result.exit_code == 0, result.output
    assert paths(api) == [f"{method} /admin/v1/adapters/mine{path}"]
    assert (json.loads(api.received[0].body) if api.received[0].body else None) == body


@pytest.mark.parametrize("half", [["--override", "urgent"], ["--by", "Ada"]])
def test_half_an_override_is_wrong_usage(half: list[str]) -> None:
    ended = turntable_adapters("promote", "mine", "v2", *half, url="http://127.0.0.1:1")
    assert (ended.exit_code, "go together" in ended.output) == (2, True)


def test_a_verdict_that_no_longer_counts_is_marked_in_listings(serve: Serve) -> None:
    row = VERSION | {"verdict": "PROMOTE", "approval": None, "override": None}
    api = serve({"data": [row | {"verdict_counts": True}]}, {"data": [row | {"verdict_counts": False}]})
    assert "does not count now" not in turntable_adapters("list", url=api.url).stdout
    assert "does not count now" in " ".join(turntable_adapters("list", url=api.url).stdout.split())


@pytest.mark.parametrize("words", [["v2"], ["--off", "v2", "10"], []])
def test_half_a_split_is_wrong_usage(words: list[str]) -> None:
    assert turntable_adapters("canary", "mine", *words, url="http://127.0.0.1:1").exit_code == 2


def test_a_retired_version_says_what_became_of_it_on_each_engine(serve: Serve) -> None:
    engines = [{"engine": "engine-0", "gone": False, "detail": "only forgotten"}]
    api = serve(VERSION | {"state": "retired", "engines": engines, "files": "kept: engine-0 may still want them"})
    result = turntable_adapters("retire", "mine", "v1", url=api.url)
    assert paths(api) == ["DELETE /admin/v1/adapters/mine/versions/v1"]
    assert "only forgotten" in result.stdout
    assert "Files kept: engine-0 may still want them." in result.stdout


@pytest.mark.parametrize("ok", [True, False])
def test_a_verdict_is_the_exit_code_and_the_evidence_is_printed(serve: Serve, ok: bool) -> None:
    probe = {"kind": "probe", "at": "2026-11-25T10:00:00Z", "actor": "admin", "document": {"largest_delta": 0.25}}
    failure = "" if ok else "The adapter changes nothing."
    api = serve(VERSION | {"ok": ok, "failure": failure, "history": [], "evidence": [probe]})
    result = turntable_adapters("verify", "mine", "v1", url=api.url)
    assert result.exit_code == (0 if ok else 1)
    assert "0.25" in result.stdout
    assert result.stderr == ("" if ok else "error: mine v1 does not pass: The adapter changes nothing.\n")
    assert paths(api) == ["POST /admin/v1/adapters/mine/versions/v1/verify"]


def test_the_audit_log_is_a_table_of_who_did_what(serve: Serve) -> None:
    entry = {"id": 7, "at": "2026-11-25T10:00:00Z", "actor": "gateway", "action": "clear_canary", "subject": "mine@v2"}
    api = serve({"data": [entry | {"evidence": {"broken": "its error rate is 50.0%", "live_window": {}}}]})
    result = turntable_adapters("audit", "mine@v2", "--limit", "5", url=api.url)
    assert paths(api) == ["GET /admin/v1/audit?limit=5&subject=mine%40v2"]
    assert all(text in result.stdout for text in ("gateway", "clear_canary", "its error rate is 50.0%"))


def test_the_gateway_can_be_sent_to_fetch_an_adapter_itself(serve: Serve, tmp_path: Path) -> None:
    api = serve(VERSION)
    assert turntable_adapters("add", "mine", "--source", "hf://acme/mine@main", url=api.url).exit_code == 0
    assert json.loads(api.received[0].body) == {"name": "mine", "source": "hf://acme/mine@main"}
    assert turntable_adapters("add", "mine", tmp_path, "--source", "hf://acme/mine", url=api.url).exit_code == 2


@pytest.mark.parametrize("convert", [False, True])
def test_a_conversion_is_asked_for_and_told_with_its_warnings(serve: Serve, adapter_dir: Path, convert: bool) -> None:
    words = ["--convert"] if convert else []
    answer = VERSION | {"warnings": ["The key 'q_prj' names no module."], "converted": ["names mended"]}
    api = serve(answer, answer)
    sent = turntable_adapters("add", "mine", adapter_dir, *words, url=api.url)
    assert "mine@v1 warning: The key 'q_prj' names no module." in sent.stdout
    assert "mine@v1 converted: names mended" in sent.stdout
    assert (b'name="convert"' in api.received[0].body) == convert
    turntable_adapters("add", "mine", "--source", "hf://acme/mine@main", *words, url=api.url)
    assert json.loads(api.received[1].body).get("convert", False) is convert


@pytest.mark.parametrize("name", ["mine.tar.gz", "mine.tgz", "mine.zip"])
def test_an_archive_is_sent_as_it_is(serve: Serve, tmp_path: Path, name: str) -> None:
    api = serve(VERSION)
    (tmp_path / name).write_bytes(b"packed by somebody else")
    assert turntable_adapters("add", "mine", tmp_path / name, url=api.url).exit_code == 0
    assert b"packed by somebody else" in api.received[0].body


def test_another_tools_folder_is_refused_before_it_is_sent(serve: Serve, adapter_dir: Path) -> None:
    (adapter_dir / "adapter_model.safetensors").rename(adapter_dir / "adapter_model.bin")
    api = serve()
    result = turntable_adapters("add", "mine", adapter_dir, url=api.url)
    assert (result.exit_code, api.received) == (2, [])
    assert result.stderr.startswith("error: adapter_model.bin: is a pickle, ")


def test_evidence_is_told_in_plain_rows(serve: Serve) -> None:
    at = {"at": "2026-11-25T12:00:00Z", "actor": "admin"}
    verdict = {"verdict": "PROMOTE", "summary": "Correct rose by 29.2 points.", "checks": [{"name": "correct"}]}
    grounds = {"verdict": verdict | {"task_sha256": "4f258" + "0" * 59, "by": "key_1", "at": "2026-11-25"}}
    evidence = [{"kind": "verdict", "document": verdict} | at, {"kind": "promotion", "document": grounds} | at]
    version = WHOLE["versions"][0] | {"evidence": evidence}
    shown = turntable_adapters("show", "mine", url=serve(WHOLE | {"versions": [version]}).url).stdout
    assert "{" not in shown
    assert shown.count("Correct rose by 29.2 points.") == 1
    assert "went live on the verdict by key_1 of 2026-11-25" in shown
    proved = VERSION | {"ok": True, "failure": "", "evidence": evidence}
    verified = turntable_adapters("verify", "mine", "v1", url=serve(proved).url).stdout
    assert "{" not in verified
    assert "checks.0.name" in verified


def test_the_engines_are_a_table_of_what_is_in_their_slots(serve: Serve) -> None:
    bare = ENGINE | {"name": "engine-1", "tiers": None, "pinned": None, "degraded": "without our plugin"}
    api = serve({"data": [ENGINE, bare]}, {"data": [ENGINE]})
    shown = turntable_adapters("engines", url=api.url)
    assert shown.exit_code == 0, shown.output
    first, second = (line for line in shown.stdout.splitlines() if "engine-" in line)
    assert all(text in first for text in ("ready", "1 of 2", "mine@1f2e3d4c5b6a", "other@0f2e3d4c5b6a"))
    assert "without our plugin" in second
    assert json.loads(turntable_adapters("engines", "--json", url=api.url).stdout) == [ENGINE]
    assert paths(api) == ["GET /admin/v1/engines"] * 2


def test_a_list_says_whether_parity_was_told(serve: Serve) -> None:
    rows = [VERSION | {"parity": "no vectors"}, VERSION | {"version": "v2", "parity": "pass"}]
    lines = turntable_adapters("list", url=serve({"data": rows}).url).stdout.splitlines()
    assert [("no vectors" in line, "pass" in line) for line in lines if "1f2e3d4c5b6a" in line] == [
        (True, False),
        (False, True),
    ]


def test_each_step_that_the_gateway_is_at_is_told_once(serve: Serve) -> None:
    steps = ["checking", "loading", "loading", "probing"]
    api = serve(*({"in_work": [{"step": step}]} for step in steps), *({"in_work": []} for _ in range(1000)))
    told, over = list[str](), threading.Event()

    def tell(step: str) -> None:
        told.append(step)
        if step == "probing":
            over.set()

    with AdminClient(api.url, "tt-admin") as admin, following(admin, "mine", tell, every_s=0.001):
        assert over.wait(20)
    assert told == ["checking", "loading", "probing"]


def test_an_added_adapter_is_uploaded_and_not_promoted(serve: Serve, adapter_dir: Path) -> None:
    api = serve(VERSION)
    result = turntable_adapters("add", "mine", adapter_dir, "--json", url=api.url)
    assert result.exit_code == 0
    told = {name: VERSION[name] for name in ("name", "version", "digest", "state")}
    assert json.loads(result.stdout) == [told | {"warnings": [], "converted": []}]
    assert paths(api) == ["POST /admin/v1/adapters"]
    assert int(api.received[0].headers["content-length"]) == len(api.received[0].body) > 1_000


def test_an_added_adapter_can_be_promoted_at_once(serve: Serve, adapter_dir: Path) -> None:
    api = serve(VERSION, VERSION | {"traffic": "live"})
    result = turntable_adapters("add", "mine", adapter_dir, "--promote", url=api.url)
    assert result.exit_code == 0
    assert "live" in result.stdout.splitlines()[-1]
    assert paths(api) == ["POST /admin/v1/adapters", "POST /admin/v1/adapters/mine/promote"]


def test_a_promotion_passes_what_it_expects(serve: Serve) -> None:
    api = serve(VERSION | {"live": True})
    assert turntable_adapters("promote", "mine", "v1", "--expect-live", "v2", url=api.url).exit_code == 0
    assert json.loads(api.received[0].body) == {"version": "v1", "expect_live": "v2"}


def test_a_refusal_is_the_gateways_sentence_on_stderr(serve: Serve) -> None:
    api = serve({"error": {"message": "v2 is not the live version of mine any more."}}, status=409)
    result = turntable_adapters("promote", "mine", "v1", "--expect-live", "v2", url=api.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: v2 is not the live version of mine any more.\n"


def test_a_folder_that_is_no_adapter_is_one_sentence(serve: Serve, tmp_path: Path) -> None:
    api = serve()
    result = turntable_adapters("add", "mine", tmp_path / "nowhere", url=api.url)
    assert (result.exit_code, api.received) == (2, [])
    assert result.stderr.startswith(f"error: {tmp_path}/nowhere is not a directory; ")


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "mine"], ["promote", "mine", "v1"], ["add", "mine", "."], ["verify", "mine", "v1"], ["audit"]],
    ids=lambda a: a[0],
)
def test_without_a_key_each_command_says_where_keys_come_from(tmp_path: Path, arguments: list[str]) -> None:
    result = turntable_adapters(*arguments, "--data-dir", tmp_path, url="http://127.0.0.1:1", key=None)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: There is no admin key: set TURNTABLE_ADMIN_KEY, or make {tmp_path}/admin.key readable.\n"
    )


def test_the_key_that_a_local_gateway_left_is_used(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("tt-left\n")
    api = serve(LISTED)
    assert turntable_adapters("list", "--data-dir", tmp_path, url=api.url, key=None).exit_code == 0
    assert api.received[0].headers["authorization"] == "Bearer tt-left"


def test_the_key_of_the_environment_wins(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("tt-left\n")
    api = serve(LISTED)
    turntable_adapters("list", "--data-dir", tmp_path, url=api.url, key="tt-set")
    assert api.received[0].headers["authorization"] == "Bearer tt-set"


def test_without_a_gateway_the_process_ends_with_one_line_and_2(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    command = [sys.executable, "-m", "turntable", "adapters", "list", "--gateway", url]
    ended = subprocess.run(command, env={"TURNTABLE_ADMIN_KEY": "tt"}, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: No gateway answers at {url} ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["list", "--nonsense"], ["add", "mine"], ["remove"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert turntable_adapters(*arguments, url="http://127.0.0.1:1").exit_code == 2
