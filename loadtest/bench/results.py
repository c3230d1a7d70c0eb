"""The bars Turntable is held to, each a ratio or a difference within one run.

The result of a run: one sample per system, workload and round, and what is derived from them.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from loadtest.bench.systems import DIRECT, LITELLM, ROUTER, TURNTABLE
from loadtest.bench.workloads import BURST, LOAD70, PACED, PLAIN, STREAMS256

BUSY = 0.9
"""A client or engine that uses more of a core than this, in front of a system that uses less, was the bottleneck."""


SLOPE_LIMIT_MIB = 1.0
"""MiB per 10,000 requests."""


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


@dataclass(frozen=True, slots=True)
class Soak:
    """Memory at the start and after every block of requests."""

    started: str
    machine: dict[str, str]
    versions: dict[str, str]
    requests: int
    failed: int
    rss_mib: list[float]

    @property
    def slope_mib(self) -> float:
        """MiB per 10,000 requests by least squares; the first fifth, when caches fill, is left out."""
        settled = self.rss_mib[len(self.rss_mib) // 5 :]
        block = self.requests / (len(self.rss_mib) - 1)
        return float(np.polyfit(np.arange(len(settled)) * block / 10_000, settled, 1)[0])


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure with its limit; the median over the rounds counts."""

    what: str
    limit: float
    unit: str
    figure: Callable[[Result], Spread | None]

    def verdict(self, result: Result) -> str:
        """`met`, `missed`, or `not measured`."""
        spread = self.figure(result)
        if spread is None:
            return "not measured"
        return "met" if spread.median <= self.limit else "missed"


def _largest_rss(result: Result) -> Spread | None:
    return Spread.of(sample.rss_mib for sample in result.samples if sample.system == TURNTABLE)


def _over(other: str, workload: str) -> Callable[[Result], Spread | None]:
    return lambda run: run.ratio(TURNTABLE, other, workload)


def _added(workload: str, metric: str, percentile: str) -> Callable[[Result], Spread | None]:
    return lambda run: run.added_ms(TURNTABLE, workload, metric, percentile)


BARS = (
    Bar("CPU per plain request, over vllm-router", 1.5, "×", _over(ROUTER, PLAIN)),
    Bar("CPU per plain request, over LiteLLM", 1 / 30, "×", _over(LITELLM, PLAIN)),
    Bar("CPU per stream in a burst, over vllm-router", 0.8, "×", _over(ROUTER, BURST)),
    Bar("CPU per stream paced at 10 ms, over vllm-router", 0.7, "×", _over(ROUTER, PACED)),
    Bar("latency p50 added at 70 % load", 2, " ms", _added(LOAD70, "latency", "p50_ms")),
    Bar("latency p99 added at 70 % load", 10, " ms", _added(LOAD70, "latency", "p99_ms")),
    Bar("TTFT p99 added at 256 streams", 10, " ms", _added(STREAMS256, "ttft", "p99_ms")),
    Bar("memory (RSS)", 150, " MiB", _largest_rss),
    Bar("cold start", 2, " s", lambda run: Spread.of(run.cold_start_s.get(TURNTABLE, []))),
)
