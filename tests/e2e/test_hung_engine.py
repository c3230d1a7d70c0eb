"""A real engine that stands still: noticed, told by /ready, and restarted. First its core, then its HTTP server."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests import canaries
from tests.conftest import TURNTABLE, Served, wait_until_ready
from tests.e2e.readings import described, engine_processes
from tests.waiting import eventually

HANG_S = 8
ASKED = {"model": "base", "prompt": "hi", "max_tokens": 2}


@pytest.fixture(scope="module")
def impatient(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway with an engine of its own that is called hung after a few seconds."""
    data_dir = tmp_path_factory.mktemp("impatient")
    (data_dir / "admin.key").write_text(canaries.ADMIN_KEY)
    options = ["--data-dir", data_dir, "--model", base_model, "--max-loras", 1, "--max-cpu-loras", 1]
    command = [TURNTABLE, "serve", "--port", "0", "--engine-port", "0", *map(str, options)]
    environment = os.environ | {"TURNTABLE_HANG_TIMEOUT_S": str(HANG_S)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(line.split()[3] for line in lines if "listening on" in line)
        threading.Thread(target=lambda: list(lines), daemon=True).start()
        operator = {"authorization": f"Bearer {canaries.ADMIN_KEY}"}
        with (
            httpx.Client(base_url=url, headers=operator, timeout=60) as http,
            OpenAI(base_url=f"{url}/v1", api_key=canaries.ADMIN_KEY, max_retries=0) as openai,
        ):
            wait_until_ready(http, data_dir)
            gateway = Served(url, canaries.ADMIN_KEY, data_dir, process, http, openai, http.get("/ready"))
            yield gateway
        process.terminate()
        assert process.wait(60) == 0


def processes(served: Served) -> tuple[int, int]:
    """The engine's HTTP server and its core."""
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in engine_processes(served)}
    (core,) = [pid for pid, name in names.items() if b"EngineCore" in name]
    (server,) = [pid for pid, name in names.items() if b"api_server" in name or b"APIServer" in name]
    return server, core


def test_a_server_that_stands_still_gets_no_requests_and_serves_again_when_it_moves(impatient: Served) -> None:
    server, _ = processes(impatient)
    before = described(impatient)["restarts"]
    os.kill(server, signal.SIGSTOP)
    try:
        assert eventually(lambda: impatient.http.get("/ready").status_code == 503)
        assert described(impatient)["state"] == "hung"
        assert f"has not responded to a liveness probe for {HANG_S} s" in described(impatient)["reason"]
        assert impatient.http.post("/v1/completions", json=ASKED).status_code == 503
    finally:
        os.kill(server, signal.SIGCONT)
    impatient.wait_until_ready()
    assert impatient.http.post("/v1/completions", json=ASKED).status_code == 200
    assert described(impatient)["restarts"] == before


def test_a_core_that_stands_still_behind_a_healthy_server_is_noticed_and_restarted(impatient: Served) -> None:
    _, core = processes(impatient)
    before = described(impatient)["restarts"]
    os.kill(core, signal.SIGSTOP)
    assert httpx.get(described(impatient)["url"] + "/health").status_code == 200  # it does not know
    assert eventually(lambda: described(impatient)["state"] == "hung")
    assert eventually(lambda: described(impatient)["restarts"] == before + 1)
    impatient.wait_until_ready()
    assert impatient.http.post("/v1/completions", json=ASKED).status_code == 200
    assert core not in engine_processes(impatient)
