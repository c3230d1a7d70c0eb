"""What the whole suite shares: the embedded base model (built once per checkout) and one real engine per run."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

ROOT = Path(__file__).parent.parent
TURNTABLE = str(Path(sys.executable).with_name("turntable"))
READY_TIMEOUT_S = 240
# Tool calls, as an operator switches them on; the arguments of a call then always obey the tool's schema.
ENGINE_ARGS = "--enable-auto-tool-choice --tool-call-parser hermes --tool-strict-level parameter"


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The embedded base model's directory: the one that the demo uses too."""
    directory = ROOT / "var" / "base-model"
    subprocess.run([sys.executable, "-m", "trainer.base_model", "--out", str(directory)], check=True)
    return directory


@dataclass(frozen=True)
class Served:
    """A gateway with a managed, real engine, as `turntable serve` runs it."""

    url: str
    key: str
    data_dir: Path
    process: "subprocess.Popen[str]"
    http: httpx.Client
    openai: OpenAI

    def wait_until_ready(self) -> None:
        """Return once /ready says so; fail when it never does."""
        for _ in range(READY_TIMEOUT_S * 10):
            if self.http.get("/ready").status_code == httpx.codes.OK:
                return
            threading.Event().wait(0.1)
        raise AssertionError((self.data_dir / "logs" / "engine.log").read_text()[-5000:])

    def turntable(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run a command against this gateway, as an operator would."""
        environment = {"TURNTABLE_GATEWAY_URL": self.url, "TURNTABLE_DATA_DIR": str(self.data_dir), "COLUMNS": "200"}
        return subprocess.run(
            [TURNTABLE, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="session")
def served(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The run's one real engine. Two adapter slots only, so that tests reach their end."""
    data_dir = tmp_path_factory.mktemp("served")
    options = ["--data-dir", data_dir, "--model", base_model, "--max-loras", 2, "--engine-usd-per-hour", "0.10"]
    command = [TURNTABLE, "serve", "--port", "0", "--engine-port", "0", *map(str, options)]
    environment = os.environ | {"TURNTABLE_ENGINE_ARGS": ENGINE_ARGS}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(line.split()[3] for line in lines if "listening on" in line)
        drain = threading.Thread(target=lambda: list(lines), daemon=True)
        drain.start()
        key = (data_dir / "admin.key").read_text().strip()
        with (
            httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as http,
            OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as openai,
        ):
            gateway = Served(url, key, data_dir, process, http, openai)
            gateway.wait_until_ready()
            yield gateway
        process.terminate()
        assert process.wait(60) == 0
        drain.join()


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
                torch.nn.init.normal_(parameter, std=0.3)
        directory = tmp_path_factory.mktemp(f"adapter{seed}")
        adapter.save_pretrained(directory)
        return directory

    return make
