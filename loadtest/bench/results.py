"""The result of a run: one sample per system, workload and round, and what is derived from them."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from loadtest.bench.systems import DIRECT

BUSY = 0.9
"""A client or engine that uses more of a core than this, in front of a system that uses less, was the bottleneck."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One phase; cores are CPU seconds per second of the system's tree, the client, the engine and all others."""

    workload: str
    round: int
    system: str
    beside: str
    """For `direct` at the rate of one system: that system."""
    completed: int
    failed: int
    errors: dict[str, int]
    requests_per_s: float
    cpu_us_per_request: float
    rss_mib: float
    system_cores: float
    client_cores: float
    engine_cores: float
    other_cores: float
    peak_running: int
    latency: dict[str, float] | None
    ttft: dict[str, float] | None

    @property
    def client_bound(self) -> bool:
        """Whether the client or the engine, not the system, set the pace."""
        own = self.system_cores if self.system != DIRECT else 1.0
        return max(self.client_cores, self.engine_cores) > BUSY > own


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the extremes over rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """The spread of the values; None without any."""
        found = sorted(values)
        return cls(found[0], statistics.median(found), found[-1]) if found else None


@dataclass
class Result:
    """A whole run, as it is written to JSON."""

    started: str
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    left_out: list[str]
    rounds: int
    seconds: float
    cold_start_s: dict[str, list[float]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what `as_json` wrote."""
        return cls(**document | {"samples": [Sample(**sample) for sample in document["samples"]]})

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)

    @property
    def systems(self) -> list[str]:
        """The systems measured, in the order of the rounds."""
        return list(dict.fromkeys(sample.system for sample in self.samples))

    def of(self, system: str, workload: str) -> list[Sample]:
        """The samples of one system and workload, one per round, without those of `direct` beside another."""
        return [
            sample
            for sample in self.samples
            if (sample.system, sample.workload, sample.beside) == (system, workload, "")
        ]

    def spread(self, system: str, workload: str, value: Callable[[Sample], float]) -> Spread | None:
        """One figure of a system over the rounds."""
        return Spread.of(value(sample) for sample in self.of(system, workload))

    def added_ms(self, system: str, workload: str, metric: str, percentile: str) -> Spread | None:
        """What a system adds to a percentile of `latency` or `ttft`, against `direct` in the same round."""
        differences = []
        for sample in self.of(system, workload):
            mine, theirs = getattr(sample, metric), getattr(self._beside(sample), metric, None)
            if mine and theirs:
                differences.append(mine[percentile] - theirs[percentile])
        return Spread.of(differences)

    def ratio(self, system: str, other: str, workload: str) -> Spread | None:
        """CPU per request of one system over that of another, round by round."""
        pairs = zip(self.of(system, workload), self.of(other, workload), strict=False)
        return Spread.of(
            mine.cpu_us_per_request / theirs.cpu_us_per_request
            for mine, theirs in pairs
            if mine.completed and theirs.cpu_us_per_request
        )

    def faults(self) -> list[str]:
        """Why figures of this run must not be used: wrong answers, or a client or engine that set the pace."""
        found = []
        for sample in self.samples:
            name = f"{sample.system}, {sample.workload}, round {sample.round}"
            if sample.failed:
                kinds = ", ".join(f"{count} x {kind}" for kind, count in sample.errors.items())
                found.append(f"{name}: {sample.failed} of {sample.completed + sample.failed} failed ({kinds})")
            if sample.client_bound:
                cores = f"client {sample.client_cores:.2f}, engine {sample.engine_cores:.2f} cores"
                found.append(f"{name}: INVALID: client-bound ({cores}, the system {sample.system_cores:.2f})")
        return found

    def _beside(self, sample: Sample) -> Sample | None:
        key = (sample.workload, sample.round, DIRECT)
        return next(
            (
                other
                for other in self.samples
                if (other.workload, other.round, other.system) == key and other.beside in ("", sample.system)
            ),
            None,
        )
