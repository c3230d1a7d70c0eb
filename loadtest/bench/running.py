"""Starting the canned engine and the systems as processes, timing their cold start, and stopping them for good."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.driver import Phase, drive
from loadtest.bench.systems import Place, System
from loadtest.errors import ServerError

START_LIMIT_S = 120
POLL_S = 0.02
STOP_LIMIT_S = 10


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers on loopback; `cold_start_s` is the time from its start to its first right answer."""

    name: str
    pid: int
    port: int
    key: str
    cold_start_s: float


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running_engine(folder: Path, itl_ms: float, words: int) -> Iterator[Running]:
    """The canned engine in a process of its own."""
    port = free_port()
    pace = ["--itl-ms", str(itl_ms), "--tokens", str(words)]
    command = [sys.executable, "-m", "loadtest.canned", "--port", str(port), "--no-coalesce", *pace]
    with _process("engine", command, {}, folder) as started:
        cold_start_s, _ = started.answered(port, lambda: "")
        yield Running("engine", started.process.pid, port, "", cold_start_s)


@contextlib.contextmanager
def running_system(system: System, engine: Running, folder: Path, venvs: Path) -> Iterator[Running]:
    """One system in front of the engine, started in an empty folder."""
    folder.mkdir(parents=True)
    place = Place(free_port(), free_port(), engine.port, folder, system.binaries(venvs))
    with _process(system.name, system.command(place), system.environment, folder) as started:
        cold_start_s, key = started.answered(place.port, lambda: system.key(place))
        key = system.client_key(place, key)
        yield Running(system.name, started.process.pid, place.port, key, cold_start_s)


@dataclass(frozen=True, slots=True)
class _Started:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    start_s: float

    def answered(self, port: int, key: Callable[[], str]) -> tuple[float, str]:
        """Ask until the answer is right; returns the seconds since the start, and the key that was let in."""
        while True:
            phase = Phase(port, key(), stream=False, words=1, duration_s=START_LIMIT_S, concurrency=1, requests=1)
            if drive(phase).completed:
                return time.perf_counter() - self.start_s, phase.key
            self._wait_a_little()

    def _wait_a_little(self) -> None:
        late = time.perf_counter() - self.start_s > START_LIMIT_S
        if self.process.poll() is not None or late:
            said = self.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            what = f"ended with code {self.process.returncode}"
            if late:
                what = f"gives no right answer after {START_LIMIT_S} s"
            raise ServerError(f"{self.name} {what}; it said: {said[-1]}")
        time.sleep(POLL_S)


@contextlib.contextmanager
def _process(name: str, command: list[str], extra: dict[str, str], folder: Path) -> Iterator[_Started]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TURNTABLE_")} | extra
    start_s, log = time.perf_counter(), folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 the commands are those of systems.py
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield _Started(name, process, log, start_s)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_LIMIT_S)
    # Also children that outlived their parent: the group is ours alone.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
