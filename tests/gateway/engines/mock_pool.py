"""A gateway over several mock engines, each a process of its own that can be killed and started again."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway.settings import Settings
from tests.gateway.conftest import KEY, running_gateway, wait_until_ready
from tests.waiting import eventually


class Engines:
    """Mock engines as processes of their own, which can be killed and started again on the same port."""

    def __init__(self, stack: ExitStack, count: int, *options: str) -> None:
        self._stack = stack
        self._options = options
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        self.ports = [listener.getsockname()[1] for listener in listeners]
        for listener in listeners:
            listener.close()
        self._processes = {port: self._start(port) for port in self.ports}

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def kill(self, number: int) -> None:
        process = self._processes[self.ports[number]]
        process.kill()
        process.wait()

    def restart(self, number: int) -> None:
        self._processes[self.ports[number]] = self._start(self.ports[number])

    def stats(self, number: int) -> dict[str, Any]:
        return dict(httpx.get(f"{self.urls[number]}/mock/stats").json())

    def _start(self, port: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "loadtest.mock_engine", "--port", str(port), "--tokens", "4", *self._options]
        process = self._stack.enter_context(subprocess.Popen(command))
        self._stack.callback(process.kill)
        return process


class Pool:
    """A gateway and its engines."""

    def __init__(self, url: str, engines: Engines) -> None:
        self.engines = engines
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=30)

    def ask(self, content: str, **fields: object) -> httpx.Response:
        body = {"model": "base", "messages": [{"role": "user", "content": content}]} | fields
        return self.http.post("/v1/chat/completions", json=body)

    def states(self) -> list[str]:
        return [engine["state"] for engine in self.http.get("/admin/v1/engines").json()["data"]]

    def running(self) -> list[int]:
        return [engine["running"] for engine in self.http.get("/admin/v1/engines").json()["data"]]


@contextmanager
def pool_of(count: int, data_dir: Path) -> Iterator[Pool]:
    with ExitStack() as stack:
        engines = Engines(stack, count)
        url = stack.enter_context(running_gateway(Settings(data_dir=data_dir), *engines.urls))
        wait_until_ready(url)
        pool = Pool(url, engines)
        stack.enter_context(pool.http)
        assert eventually(lambda: set(pool.states()) == {"ready"})
        yield pool
