"""The gateway under `bench-adapters`: started with a managed engine, filled with random adapters, asked over HTTP.

The adapters are made without torch; their weights are random, so that each of them answers differently.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from loadtest.bench import machine
from loadtest.bench.systems import free_port
from loadtest.errors import ServerError

_STRENGTH = 0.3

PROMPT = "The parcel with the desk lamp"
CACHED = 128
"""Adapters that the engine keeps in memory: fewer than get traffic, so that they are read from disk and taken out."""
_START_LIMIT_S = 600
_POLL_S = 0.05
_KEY = "tt-adapters-bench-on-loopback-only-0"
Fingerprint = Mapping[str, float]


def write_adapters(base: Path, root: Path, count: int, *, r: int = 8) -> list[Path]:
    """Write `count` PEFT directories below `root`; the number of each decides its weights."""
    shapes = _linear_shapes(base)
    return [_write(root / f"adapter-{number:04}", base, shapes, number, r) for number in range(count)]


def _write(directory: Path, base: Path, shapes: dict[str, tuple[int, int]], seed: int, r: int) -> Path:
    random = np.random.default_rng(seed)
    tensors = {}
    for module, (out, into) in shapes.items():
        a = random.standard_normal((r, into)) / np.sqrt(into * r)
        b = _STRENGTH * random.standard_normal((out, r))
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.astype(np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.astype(np.float32)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": r,
        "lora_alpha": 2 * r,
        "target_modules": sorted({module.rpartition(".")[2] for module in shapes}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def _linear_shapes(base: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for shard in sorted(base.glob("*.safetensors")):
        with safe_open(shard, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 it is no mapping
                if key.endswith("_proj.weight"):
                    out, into = tensors.get_slice(key).get_shape()
                    found[key.removesuffix(".weight")] = (out, into)
    return found


@dataclass(frozen=True)
class BenchGateway:
    """A running gateway; `pid` is its process."""

    pid: int
    http: httpx.Client

    def engine(self) -> dict[str, Any]:
        """Return the engine as the admin API describes it."""
        return dict(self.http.get("/admin/v1/engines").raise_for_status().json()["data"][0])

    def publish(self, name: str, directory: Path) -> None:
        """Upload an adapter and make it live."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            archive.add(directory, arcname=name)
        upload = {"file": ("adapter.tar.gz", packed.getvalue(), "application/gzip")}
        self.http.post("/admin/v1/adapters", data={"name": name}, files=upload).raise_for_status()
        self.http.post(f"/admin/v1/adapters/{name}/promote", json={"version": "v1"}).raise_for_status()

    def complete(self, model: str, **fields: object) -> dict[str, Any]:
        """Send one completion request; raises httpx.HTTPStatusError when it fails."""
        body = {"model": model, "prompt": PROMPT, "temperature": 0, **fields}
        return dict(self.http.post("/v1/completions", json=body).raise_for_status().json())

    def first_token_ms(self, model: str, prompt: str) -> float:
        """Return the TTFT of one stream in ms."""
        body = {"model": model, "prompt": prompt, "max_tokens": 2, "temperature": 0, "stream": True, "ignore_eos": True}
        started = time.perf_counter()
        with self.http.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            next(line for line in answer.iter_lines() if line.startswith("data: {"))
            return 1000 * (time.perf_counter() - started)

    def fingerprint(self, model: str) -> Fingerprint:
        """Return the log-probabilities of the first token after a prompt, which identify the weights."""
        answer = self.complete(model, max_tokens=1, logprobs=20)
        return dict(answer["choices"][0]["logprobs"]["top_logprobs"][0])

    def fingerprints(self, models: Sequence[str]) -> dict[str, Fingerprint]:
        """Return the fingerprints of several models, asked for concurrently."""
        with ThreadPoolExecutor(8) as threads:
            return dict(zip(models, threads.map(self.fingerprint, models), strict=True))

    def kill_engine(self) -> None:
        """End every process of the engine at once, as the kernel does when memory runs out."""
        processes = machine.read_processes()
        guard = next(process.pid for process in processes if process.parent == self.pid)
        for process in machine.tree_of(guard, processes):
            if process.pid != guard:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def rss_mib(self) -> float:
        """Return the memory of gateway and engine together in MiB."""
        return machine.rss_mib(self.pid)

    def wait_until_ready(self) -> None:
        """Wait until /ready answers 200."""
        wait_for(lambda: self.http.get("/ready").status_code == httpx.codes.OK)


def distance(one: Fingerprint, other: Fingerprint) -> float:
    """Return the mean difference of log-probabilities; tokens that only one has count as less likely than all."""
    floor = min(*one.values(), *other.values()) - 1
    tokens = one.keys() | other.keys()
    return sum(abs(one.get(token, floor) - other.get(token, floor)) for token in tokens) / len(tokens)


def closest(answer: Fingerprint, references: Mapping[str, Fingerprint]) -> str:
    """Return the name of the reference whose log-probabilities are closest to an answer's."""
    return min(references, key=lambda name: distance(answer, references[name]))


def wait_for(holds: Any) -> float:
    """Poll until a condition holds; returns the seconds that took. Raises ServerError after ten minutes."""
    started = time.perf_counter()
    while time.perf_counter() - started < _START_LIMIT_S:
        with contextlib.suppress(httpx.HTTPError):
            if holds():
                return time.perf_counter() - started
        time.sleep(_POLL_S)
    raise ServerError(f"Turntable and its engine were not ready within {_START_LIMIT_S} s; see logs/engine.log.")


@contextlib.contextmanager
def serving(data_dir: Path, model: Path) -> Iterator[BenchGateway]:
    """Start `turntable serve` with planned slots and little memory behind them, and stop it with its engine."""
    port = free_port()
    options = ["--port", str(port), "--engine-port", "0", "--data-dir", str(data_dir), "--model", str(model)]
    options += ["--max-cpu-loras", str(CACHED)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TURNTABLE_")}
    command = [str(Path(sys.executable).with_name("turntable")), "serve", *options]
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "serve.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 our own command
            command,
            env=environment | {"TURNTABLE_ADMIN_KEY": _KEY, "TURNTABLE_REQUIRE_VERDICT": "false"},
            stdout=log,
            stderr=log,
        )
    headers = {"authorization": f"Bearer {_KEY}"}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120) as http:
            server = BenchGateway(process.pid, http)
            server.wait_until_ready()
            yield server
    finally:
        process.terminate()
        process.wait()
