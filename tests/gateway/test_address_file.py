"""Commands find the gateway that runs on their data directory, on whatever port, until it is gone."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from adapters.admin_client import ADDRESS_FILE, running_gateway
from gateway.settings import inherited_environment
from loadtest.mock_engine import MockSettings, serving
from tests.conftest import TURNTABLE
from tests.gateway.processes import serve


def turntable(*arguments: object, data_dir: Path, url: str | None = None) -> "subprocess.CompletedProcess[str]":
    """A command as an operator calls it who sets the data directory alone."""
    environment = inherited_environment() | {"TURNTABLE_DATA_DIR": str(data_dir), "COLUMNS": "200"}
    environment |= {"TURNTABLE_GATEWAY_URL": url} if url else {}
    command = [TURNTABLE, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_commands_find_the_running_gateway_and_name_its_absence_afterwards(tmp_path: Path) -> None:
    with serving(MockSettings(tokens=3)) as engine, serve(tmp_path, engine.url, "--admin-port", "0") as process:
        said = json.loads((tmp_path / ADDRESS_FILE).read_text())
        assert said["pid"] == process.pid
        assert said["url"] != said["admin_url"]
        assert said["started"] <= time.time()
        listed = turntable("keys", "list", data_dir=tmp_path)
        assert listed.returncode == 0, listed.stderr
        loaded = turntable("loadtest", "run", "--requests", 3, "--json", "-", data_dir=tmp_path)
        assert loaded.returncode == 0, loaded.stderr
        assert json.loads(loaded.stdout)["provenance"]["url"] == said["url"]
        elsewhere = turntable("keys", "list", data_dir=tmp_path, url="http://127.0.0.1:9")
        assert elsewhere.returncode == 2
        assert "No gateway answers at http://127.0.0.1:9 (" in elsewhere.stderr
        assert "the address in TURNTABLE_GATEWAY_URL" in elsewhere.stderr
    assert not (tmp_path / ADDRESS_FILE).exists()
    gone = turntable("keys", "list", "--gateway", "http://127.0.0.1:9", data_dir=tmp_path)
    assert "the address given" in gone.stderr


def test_a_gateway_that_was_killed_is_not_asked(tmp_path: Path) -> None:
    with serving(MockSettings()) as engine, serve(tmp_path, engine.url) as process:
        url = json.loads((tmp_path / ADDRESS_FILE).read_text())["url"]
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.returncode = 0  # for the end of `serve`
        assert (tmp_path / ADDRESS_FILE).exists()
        assert running_gateway(tmp_path) is None
        result = turntable("loadtest", "run", data_dir=tmp_path)
        assert result.returncode == 2
        assert url not in result.stderr
        assert f"the default, as no gateway runs on the data directory {tmp_path}" in result.stderr


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"url":"http://x","admin_url":"http://x","pid":"many","started":1}', "\u0000"],
)
def test_an_address_file_of_no_sense_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / ADDRESS_FILE).write_text(text)
    assert running_gateway(tmp_path) is None


def test_a_process_that_got_the_number_of_a_dead_gateway_is_not_taken_for_it(tmp_path: Path) -> None:
    said = {"url": "http://127.0.0.1:1", "admin_url": "http://127.0.0.1:1", "pid": os.getpid()}
    (tmp_path / ADDRESS_FILE).write_text(json.dumps(said | {"started": time.time()}))
    assert running_gateway(tmp_path) is not None
    (tmp_path / ADDRESS_FILE).write_text(json.dumps(said | {"started": time.time() - 10**6}))
    assert running_gateway(tmp_path) is None
