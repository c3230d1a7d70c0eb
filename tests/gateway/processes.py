"""Gateways as processes of their own, as `turntable serve` runs them, attached to an engine."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from adapters.admin_client import running_gateway
from gateway.settings import inherited_environment
from tests.canaries import ADMIN_KEY
from tests.conftest import TURNTABLE
from tests.waiting import wait_until


class Process:
    """A gateway that runs, what it wrote so far, and an operator's client."""

    def __init__(self, process: "subprocess.Popen[str]", data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.lines: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line)
            if "listening on" in line:
                break
        else:
            raise AssertionError("".join(self.lines))
        self.url = self.lines[-1].split()[3]
        self._reader = threading.Thread(target=lambda: self.lines.extend(process.stderr or ()), daemon=True)
        self._reader.start()
        self.http = httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=20)

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return "".join(self.lines)

    def chat(self) -> httpx.Response:
        """One chat request."""
        body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
        return self.http.post("/v1/chat/completions", json=body)

    def is_ready(self) -> bool:
        """Whether /ready says so."""
        return self.http.get("/ready").is_success

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self.end(signal.SIGKILL)

    def end(self, signum: int) -> None:
        """Send it a signal that ends it, and wait for that."""
        self.process.send_signal(signum)
        self.process.wait(60)
        self._reader.join()


@contextmanager
def gateway_process(data_dir: Path, engine_url: str, **settings: str) -> Iterator[Process]:
    """Run a gateway on a free port until the block ends; it may have ended by then."""
    command = [TURNTABLE, "serve", "--port", "0", "--data-dir", str(data_dir), "--engine-url", engine_url]
    given = {f"TURNTABLE_{name.upper()}": value for name, value in settings.items()}
    environment = os.environ | {"TURNTABLE_ADMIN_KEY": ADMIN_KEY} | given
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            running = Process(process, data_dir)
            yield running
            running.http.close()
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextmanager
def serve(data_dir: Path, engine: str, *options: str) -> Iterator["subprocess.Popen[str]"]:
    command = [TURNTABLE, "serve", "--port", "0", "--engine-url", engine, "--data-dir", str(data_dir), *options]
    with subprocess.Popen(command, env=inherited_environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        heard = []
        for line in process.stderr:
            heard.append(line)
            if "listening on" in line:
                break
        else:
            raise AssertionError("".join(heard))
        wait_until(lambda: running_gateway(data_dir) is not None)
        yield process
        process.terminate()
        assert process.wait(30) == 0
