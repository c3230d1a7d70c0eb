"""Benchmark of LoRA on vLLM's CPU engine: an engine without LoRA beside one with it, asked in interleaved rounds.

A sample is tokens per CPU second of the engine's worker, which other processes of the machine disturb least. Prompts
are random token ids, so that no prefix is cached. docs/benchmarks/lora_cpu.json keeps the samples.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

from loadtest.bench import machine
from loadtest.bench.adapters_server import wait_for, write_adapters
from loadtest.bench.systems import free_port
from loadtest.errors import InvalidWorkloadError, ServerError

Say = Callable[[str], None]
ADAPTERS, RANK = 8, 16
_TOKEN_IDS = (100, 40_000)
_OUTSIDE = 0.05
_DECODED = 33  # the first of them comes with the prefill


@dataclass(frozen=True, slots=True)
class LoraPhase:
    """A kind of load: `requests` at once with prompts of `prompt` tokens; `tokens` of all of them are counted."""

    requests: int
    prompt: int
    answer: int
    tokens: int


PHASES = {
    "prefill": LoraPhase(1, 1_000, 1, 1_000),
    "single decode": LoraPhase(1, 4, _DECODED, _DECODED - 1),
    "16 decoding": LoraPhase(16, 4, _DECODED, 16 * (_DECODED - 1)),
}
CASES = ("no LoRA", "base", "one adapter", "8 adapters")


@dataclass(frozen=True, slots=True)
class LoraTarget:
    """A ratio of two cases in one phase, and the least that it must be."""

    phase: str
    case: str
    over: str
    least: float


BARS = (
    LoraTarget("prefill", "one adapter", "base", 0.75),
    LoraTarget("single decode", "one adapter", "base", 0.8),
    LoraTarget("16 decoding", "one adapter", "base", 0.8),
    LoraTarget("16 decoding", "8 adapters", "one adapter", 0.6),
    *(LoraTarget(phase, "base", "no LoRA", 0.85) for phase in PHASES),
)


@dataclass(frozen=True, slots=True)
class LoraResult:
    """Tokens per CPU second of each phase, case and round; a case may lack a phase."""

    samples: dict[str, dict[str, list[float]]]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "LoraResult":
        """Read the JSON of a run; other fields are ignored."""
        return cls(document["samples"])

    def ratios(self, bar: LoraTarget) -> list[float]:
        """Return the ratio of each round."""
        found = self.samples[bar.phase]
        return [one / other for one, other in zip(found[bar.case], found[bar.over], strict=True)]

    @property
    def are_bars_met(self) -> bool:
        """Whether the median of every ratio reaches its bar."""
        return all(median(self.ratios(bar)) >= bar.least for bar in BARS)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that hold the median with at least 95 percent, or all samples where these are few."""
    ordered, cut, outside = sorted(samples), 0, 0.0
    while (outside := outside + 2 * comb(len(ordered), cut) / 2 ** len(ordered)) <= _OUTSIDE:
        cut += 1
    lowest = max(cut - 1, 0)
    return ordered[lowest], ordered[-1 - lowest]


def table(result: LoraResult) -> str:
    """Return the bars and the figures as Markdown tables."""
    lines = ["| ratio | bar | found | 95 % interval | |", "|---|---|---|---|---|"]
    for bar in BARS:
        ratios = result.ratios(bar)
        low, high = median_interval(ratios)
        verdict = "met" if median(ratios) >= bar.least else "missed"
        what = f"{bar.phase}: {bar.case} over {bar.over}"
        lines.append(f"| {what} | ≥ {bar.least:g} | {median(ratios):.2f} | {low:.2f} to {high:.2f} | {verdict} |")
    lines += ["", f"| tokens per CPU second | {' | '.join(CASES)} |", "|---|" + "---|" * len(CASES)]
    for phase, of_case in result.samples.items():
        figures = [f"{median(of_case[case]):,.0f}" if case in of_case else "" for case in CASES]
        lines.append(f"| {phase} | {' | '.join(figures)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class LoraEngine:
    """A running vLLM; `worker` is the process that computes."""

    http: httpx.Client
    worker: int

    def run(self, phase: LoraPhase, models: Sequence[str], random: np.random.Generator) -> float:
        """Run one phase with its requests spread over models; returns tokens per CPU second."""
        prompts = random.integers(*_TOKEN_IDS, (phase.requests, phase.prompt)).tolist()
        bodies = [
            {
                "model": models[number % len(models)],
                "prompt": prompt,
                "max_tokens": phase.answer,
                "temperature": 0,
                "ignore_eos": True,
            }
            for number, prompt in enumerate(prompts)
        ]
        before = machine.cpu_s(self.worker)
        with ThreadPoolExecutor(phase.requests) as threads:
            for answer in threads.map(lambda body: self.http.post("/v1/completions", json=body), bodies):
                answer.raise_for_status()
        return phase.tokens / (machine.cpu_s(self.worker) - before)


def measure_lora(model: Path, rounds: int, say: Say) -> LoraResult:
    """Start both engines and measure every case in every round, after a round that warms up."""
    if not (model / "config.json").is_file():
        raise InvalidWorkloadError(f"{model} holds no model; give a model directory with --model.")
    with tempfile.TemporaryDirectory(prefix="turntable-lora-") as scratch:
        adapters = write_adapters(model, Path(scratch) / "adapters", ADAPTERS, r=RANK)
        with (
            _starting(model, Path(scratch) / "plain.log", ()) as start_plain,
            _starting(model, Path(scratch) / "lora.log", adapters) as start_lora,
        ):
            plain, lora = start_plain(), start_lora()
            names = [adapter.name for adapter in adapters]
            asked = dict(
                zip(CASES, ((plain, ["base"]), (lora, ["base"]), (lora, names[:1]), (lora, names)), strict=True)
            )
            samples: dict[str, dict[str, list[float]]] = {phase: {} for phase in PHASES}
            for number in range(rounds + 1):
                random = np.random.default_rng(number)
                for phase, (case, (engine, chosen)) in _interleaved(asked, number):
                    found = engine.run(PHASES[phase], chosen, random)
                    if number:
                        samples[phase].setdefault(case, []).append(found)
                say(f"round {number} of {rounds}")
    return LoraResult({phase: {case: of[case] for case in CASES if case in of} for phase, of in samples.items()})


def _interleaved(
    asked: dict[str, tuple["LoraEngine", list[str]]], number: int
) -> Iterator[tuple[str, tuple[str, tuple["LoraEngine", list[str]]]]]:
    """Every phase with every case of it, the cases in another order each round."""
    for phase in PHASES:
        cases = [case for case in asked.items() if case[0] != CASES[-1] or PHASES[phase].requests >= ADAPTERS]
        for place in range(len(cases)):
            yield phase, cases[(place + number) % len(cases)]


@contextlib.contextmanager
def _starting(model: Path, log_path: Path, adapters: Sequence[Path]) -> Iterator[Callable[[], LoraEngine]]:
    """Start vLLM with our patches on a free port, and stop it; calling what is yielded waits until it answers."""
    port = free_port()
    options = ["--model", str(model), "--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port)]
    options += ["--max-model-len", "2048", "--no-enable-prefix-caching", "--uvicorn-log-level", "warning"]
    if adapters:
        options += ["--enable-lora", "--max-loras", str(ADAPTERS), "--max-lora-rank", str(RANK), "--lora-modules"]
        options += [f"{adapter.name}={adapter}" for adapter in adapters]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")} | {
        "VLLM_PLUGINS": "turntable_patches",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 our own command
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options],
            env=environment,
            stdout=log,
            stderr=log,
        )
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)

    def ready() -> LoraEngine:
        # A connection that vLLM's socket takes before vLLM listens is never answered.
        wait_for(lambda: process.poll() is not None or http.get("/health", timeout=2).status_code == httpx.codes.OK)
        if process.poll() is not None:
            last = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
            raise ServerError(f"vLLM did not start with {model}: {' '.join(last) or 'it said nothing'}.")
        return LoraEngine(http, _worker_of(process.pid))

    try:
        yield ready
    finally:
        http.close()
        process.terminate()
        process.wait()


def _worker_of(root: int) -> int:
    for process in machine.tree_of(root, machine.read_processes()):
        if (machine.PROC / str(process.pid) / "cmdline").read_bytes().startswith(b"VLLM::Worker"):
            return process.pid
    raise ServerError("vLLM has no process named VLLM::Worker; the benchmark needs vLLM 0.32's process names.")
