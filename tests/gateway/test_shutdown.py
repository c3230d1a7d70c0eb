"""Draining: told to stop, the gateway takes nothing new, finishes what runs, and ends well."""

import signal
import socket
import subprocess
from pathlib import Path

import httpx

from loadtest.canned.engine import CannedSettings
from loadtest.canned.server import serving
from tests.conftest import TURNTABLE
from tests.gateway.conftest import wait_until_ready


def test_sigterm_finishes_running_streams_and_exits_with_zero(tmp_path: Path) -> None:
    with serving(CannedSettings(tokens=100, itl_ms=20)) as engine:
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
