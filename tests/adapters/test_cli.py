"""`turntable adapters`: exit codes, one-sentence errors, tables and JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from adapters.cli import app
from tests.adapters.conftest import AdminApi, Serve

VERSION = {"name": "mine", "version": "v1", "digest": "1f2e3d4c5b6a" + "0" * 52, "state": "ready", "reason": ""}
LISTED = {"object": "list", "data": [VERSION | {"live": True}, VERSION | {"version": "v2", "live": False}]}


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


def test_an_adapter_is_shown_whole(serve: Serve) -> None:
    document = {"name": "mine", "versions": [VERSION | {"manifest": {"r": 8}}]}
    api = serve(document)
    result = turntable_adapters("show", "mine", url=api.url)
    assert json.loads(result.stdout) == document
    assert paths(api) == ["GET /admin/v1/adapters/mine"]


def test_an_added_adapter_is_uploaded_and_not_promoted(serve: Serve, adapter_dir: Path) -> None:
    api = serve(VERSION)
    result = turntable_adapters("add", "mine", adapter_dir, "--json", url=api.url)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [{name: VERSION[name] for name in ("name", "version", "digest", "state")}]
    assert paths(api) == ["POST /admin/v1/adapters"]
    assert int(api.received[0].headers["content-length"]) == len(api.received[0].body) > 1_000


def test_an_added_adapter_can_be_promoted_at_once(serve: Serve, adapter_dir: Path) -> None:
    api = serve(VERSION, VERSION | {"live": True})
    result = turntable_adapters("add", "mine", adapter_dir, "--promote", url=api.url)
    assert result.exit_code == 0
    assert "live" in result.stdout.splitlines()[-2]
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
    "arguments", [["list"], ["show", "mine"], ["promote", "mine", "v1"], ["add", "mine", "."]], ids=lambda a: a[0]
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
