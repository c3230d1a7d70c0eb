"""A managed engine that dies: who is blamed, what is kept, how long it rests.

The engine is a canned one that can be told to break off with an error, as vLLM does.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from adapters import BaseModel, Version
from gateway.app import Setup, Turntable
from gateway.cli.listening import server_config
from gateway.cli.plan import plan_for
from gateway.engine.process import EngineSpec
from gateway.settings import Settings
from loadtest.bench import process_tree
from tests.adapters_on_disk import AnotherGateway
from tests.gateway.conftest import KEY, wait_until_ready
from tests.gateway.test_pool import eventually

BASE = BaseModel(Path("base"), "0" * 64, {"model.layers.0.self_attn.q_proj": (16, 16)})
BREAKS_OFF = """
import os, runpy, sys, threading
from pathlib import Path

port, signal = sys.argv[1:]

def break_off():
    while not Path(signal).exists():
        threading.Event().wait(0.02)
    print("RuntimeError: something in the engine broke", flush=True)
    os._exit(1)

threading.Thread(target=break_off, daemon=True).start()
sys.argv = ["canned", "--port", port, "--tokens", "4"]
runpy.run_module("loadtest.canned", run_name="__main__")
"""


@dataclass(frozen=True)
class Fragile(EngineSpec):
    """An engine that breaks off as soon as a file exists."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", BREAKS_OFF, str(self.port), str(self.log_path.with_name("break"))]


class Managed:
    """A gateway in this process with an engine that it started itself."""

    def __init__(self, url: str, data_dir: Path, said: list[str]) -> None:
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=30)
        self.said = said
        self.logs = data_dir / "logs"
        self._data_dir = data_dir

    @property
    def engine(self) -> dict[str, Any]:
        return dict(self.http.get("/admin/v1/engines").json()["data"][0])

    def break_off(self) -> None:
        (self.logs / "break").touch()

    def hold(self) -> None:
        (self.logs / "break").unlink()

    def kill(self) -> None:
        for process in process_tree.tree_of(os.getpid(), process_tree.read_processes()):
            command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            if b"break_off" in command and b"gateway.engine.guard" not in command:
                os.kill(process.pid, signal.SIGKILL)

    def load_and_leave(self, name: str) -> Version:
        """Load a version that no request has used; what happens next happens right after its load."""
        other = AnotherGateway(self._data_dir, BASE)
        version = other.publish(name, self._data_dir / "sources" / name, 1)
        other.registry.set_pinned(name, True, actor="test")
        assert eventually(lambda: version.engine_name in self.engine["resident"])
        return version

    def state_of(self, version: Version) -> tuple[str, str]:
        found = self.http.get(f"/admin/v1/adapters/{version.name}").json()["versions"][version.version - 1]
        return found["state"], found["reason"]


@contextmanager
def managed(data_dir: Path) -> Iterator[Managed]:
    settings = Settings(data_dir=data_dir)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spec = Fragile(data_dir, "base", port, 8, 16, 16, None, 1, (), data_dir / "logs" / "engine.log")
    said: list[str] = []
    plan = plan_for(settings, None, is_cpu=False)
    setup = Setup(settings, KEY, (f"http://127.0.0.1:{port}",), spec, None, said.append, said.append, plan)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(server_config(Turntable(setup), settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        gateway = Managed(url, data_dir, said)
        try:
            wait_until_ready(url)
            with gateway.http:
                yield gateway
        finally:
            server.should_exit = True
            thread.join()


def pauses(said: Sequence[str]) -> list[float]:
    return [float(line.split()[-2]) for line in said if "starting it again after" in line]


def test_a_version_after_whose_load_the_engine_broke_off_is_quarantined_with_what_the_log_says(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        version = gateway.load_and_leave("bad")
        gateway.break_off()
        assert eventually(lambda: gateway.state_of(version)[0] == "quarantined")
        assert "something in the engine broke" in gateway.state_of(version)[1]
        assert "something in the engine broke" in gateway.engine["reason"]
        gateway.hold()
        wait_until_ready(str(gateway.http.base_url))
        assert gateway.engine["restarts"] >= 1
        assert version.engine_name not in gateway.engine["resident"]
        assert "something in the engine broke" in (gateway.logs / "engine.1.log").read_text()


def test_a_version_is_not_to_blame_for_a_kill_from_outside(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        version = gateway.load_and_leave("innocent")
        gateway.kill()
        assert eventually(lambda: gateway.engine["restarts"] == 1)
        wait_until_ready(str(gateway.http.base_url))
        assert gateway.state_of(version)[0] == "ready"
        assert version.engine_name in gateway.engine["resident"]


def test_an_engine_that_keeps_dying_rests_longer_each_time(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        gateway.break_off()
        assert eventually(lambda: len(pauses(gateway.said)) >= 3)
        gateway.hold()
        assert pauses(gateway.said)[:3] == [0.5, 1.5, 3.5]
