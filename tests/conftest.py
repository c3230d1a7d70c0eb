"""What the whole suite shares: the embedded base model (built once per checkout) and one real engine per run."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from openai import OpenAI
from sqlalchemy import Engine

from gateway.database import open_database
from tests import canaries
from tests.databases import Postgres, running_postgres
from tests.scheduling import ByGroup, group
from tests.waiting import eventually

# Threads of OpenMP spin while they wait for each other. With more threads than cores, as when two processes share the
# suite, that costs more than all the work: a test that trains took 20 s of CPU time instead of 70 s. torch reads this
# once, as it is imported; what tests start inherits it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).parent.parent
TURNTABLE = str(Path(sys.executable).with_name("turntable"))
READY_TIMEOUT_S = 600
# The same examples on every machine, so that what passes here passes there; `make fuzz` draws new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None)
hypothesis.settings.register_profile("fuzz", max_examples=1000)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(scope="session", autouse=True)
def logs_without_secrets() -> Iterator[None]:
    """No record of the log in this process holds a key or prompt of ours."""
    for _ in canaries.watched_logs():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: what needs the one real engine, then what trains, then every other file."""
    rank = {"engine": 0, "trainer": 1}
    items.sort(key=lambda item: rank.get(group(item.nodeid), 2))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    """Several processes share the run by group."""
    return ByGroup(config, log)


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The embedded base model's directory: the one that the demo uses too."""
    directory = ROOT / "var" / "base-model"
    subprocess.run([sys.executable, "-m", "trainer.base_model", "--out", str(directory)], check=True)
    return directory


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, started by the first test that needs it."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, of each kind that the gateway runs on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'turntable.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.empty()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the gateway's tables, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    open_database(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind with the gateway's tables, all empty."""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        return server.migrated()
    path = shutil.copyfile(request.getfixturevalue("migrated_sqlite"), tmp_path / "turntable.db")
    return f"sqlite:///{path}"


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """A connection to a database of each kind, as the gateway opens it."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@dataclass(frozen=True)
class Served:
    """A gateway with a managed, real engine, as `turntable serve` runs it."""

    url: str
    key: str
    data_dir: Path
    process: "subprocess.Popen[str]"
    http: httpx.Client
    openai: OpenAI
    first: httpx.Response
    """The answer to the very first request, which came with a key that has a budget."""

    def wait_until_ready(self) -> None:
        """Return once /ready says so; fail when it never does."""
        wait_until_ready(self.http, self.data_dir)

    def ask_engine(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request past the gateway, with the engine's own key."""
        (engine,) = self.http.get("/admin/v1/engines").json()["data"]
        key = {"authorization": f"Bearer {canaries.ENGINE_KEY}"}
        return httpx.request(method, engine["url"] + path, headers=key, **options)

    def turntable(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run a command against this gateway, as an operator would."""
        environment = {"TURNTABLE_GATEWAY_URL": self.url, "TURNTABLE_DATA_DIR": str(self.data_dir), "COLUMNS": "200"}
        environment["OMP_WAIT_POLICY"] = os.environ["OMP_WAIT_POLICY"]
        return subprocess.run(
            [TURNTABLE, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
        )


def wait_until_ready(http: httpx.Client, data_dir: Path) -> None:
    """Return once a gateway's /ready says so; fail with its engine's log when it never does."""
    if not eventually(lambda: http.get("/ready").status_code == httpx.codes.OK, READY_TIMEOUT_S, 0.1):
        raise AssertionError((data_dir / "logs" / "engine.log").read_text()[-5000:])


def _with_a_budget(http: httpx.Client) -> httpx.Response:
    key = http.post("/admin/v1/keys", json={"name": "first", "budget_usd": "5", "budget_period": "month"}).json()["key"]
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    return http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})


@pytest.fixture(scope="session")
def served(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The run's one real engine. Two adapter slots and four in memory, so that tests reach their end.

    Promotions need no verdict here.
    """
    data_dir = tmp_path_factory.mktemp("served")
    (data_dir / "admin.key").write_text(canaries.ADMIN_KEY)
    options = ["--data-dir", data_dir, "--model", base_model, "--max-loras", 2, "--max-cpu-loras", 4]
    options += ["--engine-usd-per-hour", "0.10"]
    command = [TURNTABLE, "serve", "--port", "0", "--engine-port", "0", *map(str, options)]
    environment = os.environ | {
        "TURNTABLE_ENGINE_API_KEY": canaries.ENGINE_KEY,
        "TURNTABLE_REQUIRE_VERDICT": "false",
        "TURNTABLE_MAX_MODEL_LEN": "2048",  # prompts that are too long, and the longest answers, take less time
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(line.split()[3] for line in lines if "listening on" in line)
        written: list[str] = []
        drain = threading.Thread(target=lambda: written.extend(lines), daemon=True)
        drain.start()
        key = (data_dir / "admin.key").read_text().strip()
        with (
            httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=300) as http,
            OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as openai,
        ):
            wait_until_ready(http, data_dir)
            yield Served(url, key, data_dir, process, http, openai, _with_a_budget(http))
            marked = {"model": "base", "prompt": canaries.PROMPT, "max_tokens": 1}
            assert http.post("/v1/completions", json=marked).status_code == 200
            canaries.assert_none([http.get(page).content for page in ("/metrics", "/admin/v1/audit", "/admin/v1/keys")])
        process.terminate()
        assert process.wait(60) == 0
        drain.join()
        canaries.assert_none(written)
        assert canaries.leaks(data_dir) == []


@pytest.fixture(scope="session")
def make_adapter(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Makes real PEFT adapters of the base, untrained but strong; the argument is the seed."""

    def make(seed: int) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.bfloat16)
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        adapter = get_peft_model(base, config)
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        directory = tmp_path_factory.mktemp(f"adapter{seed}")
        adapter.save_pretrained(directory)
        return directory

    return make
