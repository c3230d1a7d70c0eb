"""Estimate tokens, time and cost of a run before it starts, and of a project of two to three runs.

The speed is the stated one; or that of the newest finished run, on the same base model if one is named; or, with a
named base and without a GPU, a short matrix-multiplication benchmark of this CPU, scaled by the size of the base; or an
assumption. The estimate names the source.
"""

import json
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

CHARACTERS_PER_TOKEN = 4
# torchtune's published figure for LoRA on Llama-3.1-8B, one RTX 4090.
ASSUMED_TOKENS_PER_S = 3_083
ASSUMED_SPEED = "assumed: LoRA on an 8B model, one RTX 4090, as torchtune publishes it"
_ASSUMED_PARAMETERS = 8e9
Hardware = Literal["cpu", "rtx-4090", "l4", "a10", "l40s", "a100", "h100"]
# Dense bfloat16 TFLOP/s, as the makers publish them.
_TFLOPS: dict[Hardware, float] = {"rtx-4090": 165, "l4": 121, "a10": 125, "l40s": 362, "a100": 312, "h100": 989}
# A rented A100-80GB.
ASSUMED_USD_PER_HOUR = (2.0, 4.0)
RUNS = (2, 3)
# LoRA takes two operations per weight and token forward, and two backward to reach the layers below.
_FLOPS_PER_WEIGHT = 4
# What is left of a bare multiplication in a run: SmolLM2-135M made 72 to 184 tokens/s on two cores that multiply at
# 160 GFLOP/s.
_SHARE_OF_BURST = 0.35
_BURSTS, _BURST_S, _BURST_SIZE = 12, 0.03, 1_024


@dataclass(frozen=True, slots=True)
class Speed:
    """The assumed speed of a run with its source; `is_rented` for a rented GPU."""

    tokens_per_s: float
    source: str
    is_rented: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a run, as far as stated: its speed or hardware, and the size of the base model."""

    tokens_per_s: float | None = None
    hardware: Hardware | None = None
    parameters: int | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """One run over `tokens_per_epoch` tokens, and a project of two to three of them; money as (low, high) in USD."""

    tokens_per_epoch: int
    token_source: str
    epochs: int
    tokens_per_s: float
    speed_source: str
    usd_per_hour: tuple[float, float] | None

    @property
    def tokens(self) -> int:
        """The input tokens of one run."""
        return self.tokens_per_epoch * self.epochs

    @property
    def run_s(self) -> float:
        """The duration of one run, in seconds."""
        return self.tokens / self.tokens_per_s

    @property
    def run_usd(self) -> tuple[float, float] | None:
        """The cost of one run in USD; None without an hourly price."""
        if self.usd_per_hour is None:
            return None
        low, high = self.usd_per_hour
        return self.run_s / 3600 * low, self.run_s / 3600 * high

    @property
    def project_s(self) -> tuple[float, float]:
        """The duration of a project, in seconds."""
        return self.run_s * RUNS[0], self.run_s * RUNS[1]

    @property
    def project_usd(self) -> tuple[float, float] | None:
        """The cost of a project in USD; None without an hourly price."""
        return None if self.run_usd is None else (self.run_usd[0] * RUNS[0], self.run_usd[1] * RUNS[1])


def estimate(
    tokens_per_epoch: int,
    token_source: str,
    epochs: int,
    *,
    runs: Path,
    base: str | None,
    usd_per_hour: float | None,
    machine: Machine = Machine(),
) -> Estimate:
    """Make the estimate; the price of a rented GPU is assumed only with the speed of one."""
    speed = _speed(runs, base, machine)
    price = None if usd_per_hour is None else (usd_per_hour, usd_per_hour)
    price = ASSUMED_USD_PER_HOUR if price is None and speed.is_rented else price
    return Estimate(tokens_per_epoch, token_source, epochs, speed.tokens_per_s, speed.source, price)


def _speed(runs: Path, base: str | None, machine: Machine) -> Speed:
    if machine.tokens_per_s is not None:
        return Speed(machine.tokens_per_s, "as stated")
    if machine.hardware not in (None, "cpu"):
        return _scaled(machine.hardware, machine.parameters)
    if machine.hardware is None and (measured := measured_speed(runs, base)):
        return Speed(*measured)
    if machine.parameters is not None and (machine.hardware == "cpu" or not _has_gpu()):
        return processor_speed(machine.parameters)
    return _scaled(None, machine.parameters)


def _scaled(hardware: Hardware | None, parameters: int | None) -> Speed:
    """Scale the published speed by the size of the base and the peak of the GPU."""
    if hardware is None and parameters is None:
        return Speed(float(ASSUMED_TOKENS_PER_S), ASSUMED_SPEED, is_rented=True)
    size = parameters or _ASSUMED_PARAMETERS
    card = hardware or "rtx-4090"
    speed = ASSUMED_TOKENS_PER_S * _ASSUMED_PARAMETERS / size * _TFLOPS[card] / _TFLOPS["rtx-4090"]
    return Speed(
        speed, f"{ASSUMED_SPEED}; by size and peak for {_parameters(size)} on one {card.upper()}", is_rented=True
    )


def processor_speed(parameters: int) -> Speed:
    """Estimate the speed of this CPU with a base of so many parameters from a short multiplication benchmark."""
    import torch

    one = torch.ones((_BURST_SIZE, _BURST_SIZE), dtype=torch.bfloat16)
    work, best = 2 * _BURST_SIZE**3, 0.0
    for _ in range(_BURSTS):
        began, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < _BURST_S or not done:
            one @ one
            done += 1
        best = max(best, done * work / spent)
    speed = best * _SHARE_OF_BURST / (_FLOPS_PER_WEIGHT * parameters)
    told = f"this processor ({best / 1e9:,.0f} GFLOP/s just measured) with {_parameters(parameters)}"
    return Speed(speed, f"a rough guess for {told}; a run's own speed takes its place")


def parameters_of(directory: Path) -> int | None:
    """Count the parameters of a model by the headers of its safetensors files; None without such files."""
    from safetensors import SafetensorError, safe_open

    total = 0
    try:
        for path in directory.glob("*.safetensors"):
            with safe_open(path, "numpy") as tensors:
                total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return total or None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _parameters(count: float) -> str:
    return f"{count / 1e9:.3g}B parameters" if count >= 1e9 else f"{count / 1e6:.3g}M parameters"


def measured_speed(runs: Path, base: str | None) -> tuple[float, str] | None:
    """Return tokens per second of the newest run on a base model, None for any, with the run and its device."""
    found = [path for path in runs.glob("*/training.json") if not path.parent.is_symlink()]
    for facts in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            run = json.loads(facts.read_bytes())
            if base in (None, run["base_model"]) and run["steps_s"] > 0 and run["input_tokens"] > 0:
                told = f"measured in {facts.parent.name} on {run.get('device', 'unknown device')}"
                told += "" if base else f", base {run['base_model']}"
                return run["input_tokens"] / run["steps_s"], told
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
