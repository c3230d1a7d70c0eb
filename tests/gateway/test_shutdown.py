"""Draining: told to stop, the gateway takes nothing new, finishes what runs, and ends well."""

import gc
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from gateway.inference.settlement import Settlement
from gateway.quality.service import QualityMonitoring
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.conftest import TURNTABLE
from tests.databases import Postgres
from tests.gateway.auth.conftest import PEPPER
from tests.gateway.conftest import in_process_gateway, running_gateway, wait_until_ready


def test_sigterm_finishes_running_streams_and_exits_with_zero(tmp_path: Path) -> None:
    with serving(MockSettings(tokens=100, itl_ms=20)) as engine:
        command = [TURNTABLE, "serve", "--port", "0", "--data-dir", str(tmp_path), "--engine-url", engine.url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as gateway:
            assert gateway.stderr is not None
            url = next(line.split()[3] for line in gateway.stderr if "listening on" in line)
            wait_until_ready(url)
            headers = {"authorization": f"Bearer {(tmp_path / 'admin.key').read_text().strip()}"}
            body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "stream": True}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as response:
                lines = response.iter_lines()
                assert next(lines).startswith("data: ")
                gateway.send_signal(signal.SIGTERM)
                rest = list(lines)
            assert rest[-2] == "data: [DONE]"
            assert gateway.wait(30) == 0
            assert "Traceback" not in gateway.stderr.read()
        assert engine.engine.aborted == 0
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0


@pytest.mark.asyncio(loop_scope="function")
async def test_engines_are_up_until_the_last_row_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of requests that were cut off are settled with what the engine says, which a stopped one cannot."""
    close, up = Settlement.close, list[bool]()

    async def closing(settlement: Settlement) -> None:
        await close(settlement)
        up.append(bool(settlement._pool.ready))

    monkeypatch.setattr(Settlement, "close", closing)
    with serving(MockSettings()) as engine:
        async with in_process_gateway(Settings(data_dir=tmp_path), engine.url):
            assert up == []
    assert up == [True]


def test_background_work_that_still_runs_leaves_no_connection_open(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, left_open, renew = threading.Event(), list[str](), QualityMonitoring.review

    def slow(watching: QualityMonitoring) -> None:
        with watching.profiles._database.connect() as connection:
            at_work.set()
            connection.exec_driver_sql("SELECT pg_sleep(1)")
        renew(watching)

    monkeypatch.setattr(QualityMonitoring, "review", slow)
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: left_open.append(str(unraisable.exc_value)))
    settings = Settings(data_dir=tmp_path, database_url=postgres.migrated(), key_pepper=PEPPER)
    with serving(MockSettings()) as engine, running_gateway(settings, engine.url):
        assert at_work.wait(20)
    threading.Event().wait(1.5)
    gc.collect()
    assert left_open == []
