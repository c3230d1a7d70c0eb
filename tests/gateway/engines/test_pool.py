"""Several engines behind one gateway: where requests go, and what becomes of them when an engine dies."""

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

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


def test_requests_at_the_same_time_are_spread_over_the_engines(tmp_path: Path) -> None:
    with pool_of(2, tmp_path) as pool, ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: pool.ask(f"question {n}").status_code, range(64)))
        served = [pool.engines.stats(number)["finished"] for number in range(2)]
    assert set(answers) == {200}
    assert sum(served) == 64
    assert min(served) > 10


def test_an_engine_that_cannot_be_reached_loses_no_request(tmp_path: Path) -> None:
    with pool_of(2, tmp_path) as pool:
        pool.engines.kill(0)
        answers = Counter(pool.ask(f"question {n}").status_code for n in range(20))
        metrics = pool.http.get("/metrics").text
        assert eventually(lambda: pool.states() == ["restarting", "ready"])
        pool.engines.restart(0)
        assert eventually(lambda: pool.states() == ["ready", "ready"])
    # The first request may meet a kept connection that died with the engine: the engine might have read it.
    assert answers[200] >= 19
    assert answers.keys() <= {200, 502}
    assert "turntable_engine_retries_total" in metrics


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_under_which_an_engine_died_is_neither_replayed_nor_taken_again(tmp_path: Path, stream: bool) -> None:
    with pool_of(2, tmp_path) as pool, ThreadPoolExecutor(1) as threads:
        poison = threads.submit(pool.ask, "poison", stream=stream, mock_fault="hang")
        assert eventually(lambda: 1 in pool.running())
        killer = pool.running().index(1)
        pool.engines.kill(killer)
        assert poison.result().status_code == 502
        assert eventually(lambda: pool.states()[killer] == "restarting")
        assert pool.running() == [0, 0]
        again = pool.ask("poison", stream=stream, mock_fault="hang")
        assert again.status_code == 400
        assert again.json()["error"]["code"] == "suspect_request"
        assert again.headers["x-should-retry"] == "false"
        assert pool.ask("harmless").status_code == 200
        pool.engines.restart(killer)
        assert eventually(lambda: pool.states() == ["ready", "ready"])
        assert pool.ask("poison", stream=stream, mock_fault="hang").status_code == 400


def test_no_engine_left_is_a_503_that_names_every_reason(tmp_path: Path) -> None:
    with pool_of(2, tmp_path) as pool:
        pool.engines.kill(0)
        pool.engines.kill(1)
        assert eventually(lambda: pool.states() == ["restarting", "restarting"])
        refused = pool.ask("anything")
        ready = pool.http.get("/ready")
    assert (refused.status_code, ready.status_code) == (503, 503)
    assert all(url in refused.json()["error"]["message"] for url in pool.engines.urls)
    assert int(refused.headers["retry-after"]) > 0
