"""Draining: told to stop, the gateway takes nothing new, finishes what runs, and ends well."""

import gc
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from gateway.inference.settlement import Settlement
from gateway.quality.service import QualityMonitoring
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import Fault, MockSettings
from tests.canaries import ADMIN_KEY
from tests.conftest import TURNTABLE
from tests.databases import Postgres, running_postgres
from tests.gateway.auth.conftest import PEPPER
from tests.gateway.conftest import in_process_gateway, running_gateway, wait_until_ready
from tests.gateway.processes import Process, gateway_process
from tests.gateway.server.raw_sockets import connected, read_all
from tests.waiting import eventually


def ask(gateway: Process, **fields: object) -> httpx.Response:
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]} | fields
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.http.headers, timeout=60)


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


def test_what_does_not_end_in_time_is_told_so_and_booked_as_shutdown(tmp_path: Path) -> None:
    """Each request that is cut gets one sentence; the row has the tokens until then and the right reason."""
    hanging = {"max_tokens": 8, "mock_fault": Fault.HANG_MID_STREAM, "stream": True}
    with serving(MockSettings(tokens=8, tells_tokens=True)) as engine, ThreadPoolExecutor(3) as clients:
        settings = {"shutdown_timeout_s": "2", "max_in_flight": "2"}
        with gateway_process(tmp_path, engine.url, **settings) as gateway, connected(gateway.url) as operator:
            assert eventually(gateway.is_ready)
            stream = clients.submit(ask, gateway, **hanging)
            whole = clients.submit(ask, gateway, max_tokens=8, mock_fault=Fault.HANG)
            assert eventually(lambda: len(engine.engine.received) == 2)
            queued = clients.submit(ask, gateway)
            assert eventually(lambda: "turntable_waiting 1.0" in gateway.http.get("/metrics").text)
            head = f"POST /admin/v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_KEY}\r\n"
            operator.sendall(f"{head}content-length: 9\r\nexpect: 100-continue\r\n\r\n".encode())
            assert operator.recv(65536).startswith(b"HTTP/1.1 100")  # it waits for the body
            gateway.process.send_signal(signal.SIGTERM)
            cut = [stream.result(), whole.result(), queued.result()]
            refused = read_all(operator)
            assert gateway.process.wait(60) == 0
        assert [answer.status_code for answer in cut] == [200, 503, 503]
        assert all(answer.text.count("The gateway was stopped before the answer was complete") == 1 for answer in cut)
        assert whole.result().json()["error"]["code"] == "gateway_stopped"
        assert (refused.split()[1], refused.count(b"gateway_stopped")) == (b"503", 1)
        assert int(queued.result().headers["retry-after"]) > 0
        assert "Traceback" not in gateway.log
        assert engine.engine.aborted == 2
    with closing(sqlite3.connect(tmp_path / "turntable.db")) as database:
        query = "SELECT stream, state, finish, status, error_code, completion_tokens FROM usage_ledger ORDER BY stream"
        rows = database.execute(query).fetchall()
    ended = ("settled", "shutdown", 503, "gateway_stopped")
    assert [row[:5] for row in rows] == [(0, *ended), (1, *ended)]
    assert rows[1][5] == 4
    refusals = (tmp_path / "refusals" / "unavailable.jsonl").read_text()
    assert refusals.count("gateway_stopped") == 1


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


def test_a_database_that_hangs_does_not_keep_the_gateway_and_loses_nothing(tmp_path: Path) -> None:
    """As behind a network that is gone: calls neither return nor fail. What hung is named, and the process ends."""
    with running_postgres() as postgres, serving(MockSettings(tokens=4)) as engine:
        settings = {"database_url": postgres.empty(), "key_pepper": PEPPER, "shutdown_timeout_s": "1"}
        with gateway_process(tmp_path, engine.url, **settings) as gateway:
            assert eventually(gateway.is_ready)
            assert ask(gateway).status_code == 200
            with postgres.hanging():
                assert ask(gateway).status_code == 200
                gateway.process.send_signal(signal.SIGTERM)
                assert gateway.process.wait(240) == 0
        assert re.search(r"gave up waiting for \w+\.\w+", gateway.log), gateway.log
        assert "Traceback" not in gateway.log
        with gateway_process(tmp_path, engine.url, **settings) as gateway:
            assert eventually(gateway.is_ready)
            (usage,) = gateway.http.get("/admin/v1/usage").json()["data"]
            assert (usage["requests"], usage["completion_tokens"], usage["unsettled"]) == (2, 8, 0)
