"""What a run will take: tokens, time and money, before it is started.

Speed is that of the newest finished run, on the same base model when one is named; without one it is an assumption, and
named as one. What a first attempt costs is not what a project costs: the articles that this trainer is built on count
two to three runs.
"""

import json
from dataclasses import dataclass
from pathlib import Path

CHARACTERS_PER_TOKEN = 4
# torchtune's published figure for LoRA on Llama-3.1-8B, one RTX 4090.
ASSUMED_TOKENS_PER_S = 3_083
ASSUMED_SPEED = "assumed: LoRA on an 8B model, one RTX 4090, as torchtune publishes it"
# A rented A100-80GB.
ASSUMED_USD_PER_HOUR = (2.0, 4.0)
RUNS = (2, 3)


@dataclass(frozen=True, slots=True)
class Estimate:
    """One run over `tokens_per_epoch` tokens, and a project of two to three of them; money as (low, high) in USD."""

    tokens_per_epoch: int
    token_source: str
    epochs: int
    tokens_per_s: float
    speed_source: str
    usd_per_hour: tuple[float, float]

    @property
    def tokens(self) -> int:
        """Tokens that one run reads."""
        return self.tokens_per_epoch * self.epochs

    @property
    def run_s(self) -> float:
        """Seconds of one run."""
        return self.tokens / self.tokens_per_s

    @property
    def run_usd(self) -> tuple[float, float]:
        """Money for one run."""
        low, high = self.usd_per_hour
        return self.run_s / 3600 * low, self.run_s / 3600 * high

    @property
    def project_s(self) -> tuple[float, float]:
        """Seconds until a run is good enough, iterations included."""
        return self.run_s * RUNS[0], self.run_s * RUNS[1]

    @property
    def project_usd(self) -> tuple[float, float]:
        """Money until a run is good enough, iterations included."""
        return self.run_usd[0] * RUNS[0], self.run_usd[1] * RUNS[1]


def estimate(
    tokens_per_epoch: int, token_source: str, epochs: int, *, runs: Path, base: str | None, usd_per_hour: float | None
) -> Estimate:
    """The estimate, with the speed of the newest run below the folder `runs` when there is one, on `base` if given."""
    speed, source = measured_speed(runs, base) or (float(ASSUMED_TOKENS_PER_S), ASSUMED_SPEED)
    price = ASSUMED_USD_PER_HOUR if usd_per_hour is None else (usd_per_hour, usd_per_hour)
    return Estimate(tokens_per_epoch, token_source, epochs, speed, source, price)


def measured_speed(runs: Path, base: str | None) -> tuple[float, str] | None:
    """Tokens per second of the newest run on a base model, None being any, and which run that was."""
    found = [path for path in runs.glob("*/training.json") if not path.parent.is_symlink()]
    for facts in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            run = json.loads(facts.read_bytes())
            if base in (None, run["base_model"]) and run["steps_s"] > 0 and run["input_tokens"] > 0:
                device = run.get("device", "unknown device")
                return run["input_tokens"] / run["steps_s"], f"measured in {facts.parent.name} on {device}"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
