"""Systems of the side-by-side benchmark: their command lines, start and stop as processes, cold start times."""

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
from textwrap import dedent

import httpx

from loadtest.bench.client import Phase, run_phase
from loadtest.errors import InvalidWorkloadError, ServerError

DIRECT = "direct"
TURNTABLE = "turntable"
ROUTER = "vllm-router"
"""With its default policy, cache_aware."""
ROUTER_RR = "vllm-router-rr"
"""With the policy round_robin, its cheapest: what a pure relay in Rust costs."""
RELAY = "relay"
"""No gateway at all: bytes from socket to socket on a Python event loop, the least that one in Python can cost."""
LITELLM = "litellm"
NAMES = (DIRECT, TURNTABLE, RELAY, ROUTER, ROUTER_RR, LITELLM)
LITELLM_KEY = "sk-bench"
_PRICE_TRIES, _PRICE_WAIT_S = 600, 0.1

START_LIMIT_S = 120
POLL_S = 0.02
STOP_LIMIT_S = 10


@dataclass(frozen=True, slots=True)
class LaunchContext:
    """Context in which a system is launched: its ports, the engine's port, an empty folder, its venv."""

    port: int
    metrics_port: int
    engine_port: int
    folder: Path
    binaries: Path

    @property
    def engine_url(self) -> str:
        """URL of the engine."""
        return f"http://127.0.0.1:{self.engine_port}"


@dataclass(frozen=True, slots=True)
class System:
    """A system under test; `package` is the distribution whose version is reported, and `binary` names
    its executable and its venv.
    """

    name: str
    binary: str
    package: str
    command: Callable[[LaunchContext], list[str]]
    key: Callable[[LaunchContext], str]
    environment: dict[str, str]
    client_key: Callable[[LaunchContext, str], str] = lambda _, key: key
    """The key of a client, given the one that the system was found up with."""

    def binaries(self, venvs: Path) -> Path:
        """Return the folder of its executables: this environment for ours, a venv for each of the others."""
        return (
            Path(sys.executable).parent if self.name in (TURNTABLE, RELAY) else (venvs / self.binary / "bin").absolute()
        )

    def version(self, venvs: Path) -> str | None:
        """Return the installed version; None when it is not installed."""
        python = self.binaries(venvs) / "python"
        if not (self.binaries(venvs) / self.binary).exists():
            return None
        program = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        shown = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)  # noqa: S603
        return shown.stdout.strip() or None


def _turntable(place: LaunchContext) -> list[str]:
    binary = str(place.binaries / TURNTABLE)
    where = ["--port", str(place.port), "--data-dir", str(place.folder)]
    return [binary, "serve", "--engine-url", place.engine_url, "--engine-usd-per-hour", "1", *where]


def _admin_key(place: LaunchContext) -> str:
    try:
        return (place.folder / "admin.key").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _limited_key(place: LaunchContext, admin_key: str) -> str:
    """Create a key of a tenant with every limit and budget, all out of reach; wait until usage has a price."""
    account = {"rpm": 10**9, "tpm": 10**12, "max_concurrency": 10**6, "max_tokens": 10**6}
    budgets = [{"usd": "1000000", "period": period} for period in ("day", "month", "total")]
    chat = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    admin = {"authorization": f"Bearer {admin_key}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{place.port}", headers=admin, timeout=30) as http:
        http.put("/admin/v1/tenants/bench", json=account | {"budgets": budgets}).raise_for_status()
        made = http.post("/admin/v1/keys", json={"name": "bench", "tenant": "bench", "budgets": budgets} | account)
        key: str = made.raise_for_status().json()["key"]
        limited = {"authorization": f"Bearer {key}"}
        for _ in range(_PRICE_TRIES):
            if http.post("/v1/chat/completions", json=chat, headers=limited).is_success:
                return key
            time.sleep(_PRICE_WAIT_S)
    raise ServerError("turntable found no price for its budgets; its log has the reason")


def _no_key(_: LaunchContext) -> str:
    return ""


def _relay(place: LaunchContext) -> list[str]:
    return [str(place.binaries / "python"), "-m", "loadtest.bench.relay", str(place.port), str(place.engine_port)]


def _router(place: LaunchContext) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(place.port), "--worker-urls", place.engine_url]
    # Its metrics port is a fixed one unless told.
    options = ["--prometheus-port", str(place.metrics_port), "--log-level", "warning"]
    return [str(place.binaries / ROUTER), *where, *options]


def _router_rr(place: LaunchContext) -> list[str]:
    return [*_router(place), "--policy", "round_robin"]


def _litellm(place: LaunchContext) -> list[str]:
    config = place.folder / "config.yaml"
    text = f"""\
        model_list:
          - model_name: base
            litellm_params: {{model: hosted_vllm/base, api_base: "{place.engine_url}/v1", api_key: none}}
        general_settings: {{master_key: {LITELLM_KEY}}}
        """
    config.write_text(dedent(text), encoding="utf-8")
    where = ["--host", "127.0.0.1", "--port", str(place.port), "--config", str(config)]
    return [str(place.binaries / LITELLM), *where, "--num_workers", "1", "--telemetry", "False"]


SYSTEMS = {
    TURNTABLE: System(TURNTABLE, TURNTABLE, "turntable-gateway", _turntable, _admin_key, {}, _limited_key),
    RELAY: System(RELAY, "python", "uvloop", _relay, _no_key, {}),
    ROUTER: System(ROUTER, ROUTER, ROUTER, _router, _no_key, {}),
    ROUTER_RR: System(ROUTER_RR, ROUTER, ROUTER, _router_rr, _no_key, {}),
    # Without this, it fetches its price list from the network at start.
    LITELLM: System(
        LITELLM, LITELLM, LITELLM, _litellm, lambda _: LITELLM_KEY, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ),
}


def select_systems(names: str) -> list[str]:
    """Parse system names separated by commas, in the order of the rounds; `direct` is always included."""
    chosen = {name.strip() for name in names.split(",")}
    if unknown := sorted(chosen - set(NAMES)):
        raise InvalidWorkloadError(f"No system is called {', '.join(unknown)}; choose from {', '.join(NAMES)}.")
    return [name for name in NAMES if name in chosen | {DIRECT}]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers on loopback; `cold_start_s` is the time from its start to its first right answer."""

    name: str
    pid: int
    port: int
    key: str
    cold_start_s: float


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running_engine(folder: Path, itl_ms: float, words: int) -> Iterator[Running]:
    """Run the mock engine in a process of its own."""
    port = free_port()
    pace = ["--itl-ms", str(itl_ms), "--tokens", str(words)]
    command = [sys.executable, "-m", "loadtest.mock_engine", "--port", str(port), "--no-coalesce", *pace]
    with _process("engine", command, {}, folder) as started:
        cold_start_s, _ = started.answered(port, lambda: "")
        yield Running("engine", started.process.pid, port, "", cold_start_s)


@contextlib.contextmanager
def running_system(system: System, engine: Running, folder: Path, venvs: Path) -> Iterator[Running]:
    """Run one system in front of the engine, started in an empty folder."""
    folder.mkdir(parents=True)
    place = LaunchContext(free_port(), free_port(), engine.port, folder, system.binaries(venvs))
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
            if run_phase(phase).completed:
                return time.perf_counter() - self.start_s, phase.key
            self._wait_a_little()

    def _wait_a_little(self) -> None:
        late = time.perf_counter() - self.start_s > START_LIMIT_S
        if self.process.poll() is not None or late:
            log_lines = self.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            what = f"ended with code {self.process.returncode}"
            if late:
                what = f"gives no right answer after {START_LIMIT_S} s"
            raise ServerError(f"{self.name} {what}; it said: {log_lines[-1]}")
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
