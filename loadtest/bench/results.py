"""Result of the side-by-side benchmark: samples, derived figures, bars, and the tables of docs/benchmarks.md.

A bar is a limit for Turntable: a ratio or a difference within one run.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from loadtest.bench.client import BURST, LOAD70, PACED, PLAIN, STREAMS256
from loadtest.bench.systems import DIRECT, LITELLM, NAMES, ROUTER, TURNTABLE

BUSY = 0.9
"""A client or engine that uses more of a core than this, in front of a system that uses less, was the bottleneck."""


SLOPE_LIMIT_MIB = 1.0
"""MiB per 10,000 requests."""

LABELS = {
    PLAIN: "plain request",
    BURST: "50-chunk stream, burst",
    PACED: "50-chunk stream, 10 ms apart",
    LOAD70: "plain requests at 70 % load",
    STREAMS256: "256 streams at a time",
}
SHARED_CORES = 0.25
"""Above this, other processes of the machine distort the figures."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures of one phase; cores are CPU seconds per second of system, client, engine and all other processes."""

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
        """Whether client or engine, not the system, was the bottleneck."""
        own = self.system_cores if self.system != DIRECT else 1.0
        return max(self.client_cores, self.engine_cores) > BUSY > own


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes over rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """Return the spread of the values; None without any."""
        found = sorted(values)
        return cls(found[0], statistics.median(found), found[-1]) if found else None


@dataclass
class Result:
    """Result of a whole run, as written to JSON."""

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
        """Read the JSON that `as_json` returned."""
        return cls(**document | {"samples": [Sample(**sample) for sample in document["samples"]]})

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return asdict(self)

    @property
    def systems(self) -> list[str]:
        """The systems measured, in the order of the rounds."""
        return list(dict.fromkeys(sample.system for sample in self.samples))

    def of(self, system: str, workload: str) -> list[Sample]:
        """Return the samples of one system and workload, one per round, without those of `direct` beside another."""
        return [
            sample
            for sample in self.samples
            if (sample.system, sample.workload, sample.beside) == (system, workload, "")
        ]

    def spread(self, system: str, workload: str, value: Callable[[Sample], float]) -> Spread | None:
        """Return the spread of one figure of a system over the rounds."""
        return Spread.of(value(sample) for sample in self.of(system, workload))

    def added_ms(self, system: str, workload: str, metric: str, percentile: str) -> Spread | None:
        """Return the added latency: a percentile of `latency` or `ttft` less that of `direct` in the same round."""
        differences = []
        for sample in self.of(system, workload):
            mine, theirs = getattr(sample, metric), getattr(self._beside(sample), metric, None)
            if mine and theirs:
                differences.append(mine[percentile] - theirs[percentile])
        return Spread.of(differences)

    def ratio(self, system: str, other: str, workload: str) -> Spread | None:
        """Return the ratio of CPU per request of two systems, round by round."""
        pairs = zip(self.of(system, workload), self.of(other, workload), strict=False)
        return Spread.of(
            mine.cpu_us_per_request / theirs.cpu_us_per_request
            for mine, theirs in pairs
            if mine.completed and theirs.cpu_us_per_request
        )

    def faults(self) -> list[str]:
        """List why figures of this run are invalid: wrong answers, or a saturated client or engine."""
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
class BenchTarget:
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


def _added_figure(workload: str, metric: str, percentile: str) -> Callable[[Result], Spread | None]:
    return lambda run: run.added_ms(TURNTABLE, workload, metric, percentile)


TARGETS = (
    BenchTarget("CPU per plain request, over vllm-router", 1.5, "×", _over(ROUTER, PLAIN)),
    BenchTarget("CPU per plain request, over LiteLLM", 1 / 30, "×", _over(LITELLM, PLAIN)),
    BenchTarget("CPU per stream in a burst, over vllm-router", 0.8, "×", _over(ROUTER, BURST)),
    BenchTarget("CPU per stream paced at 10 ms, over vllm-router", 0.7, "×", _over(ROUTER, PACED)),
    BenchTarget("latency p50 added at 70 % load", 2, " ms", _added_figure(LOAD70, "latency", "p50_ms")),
    BenchTarget("latency p99 added at 70 % load", 10, " ms", _added_figure(LOAD70, "latency", "p99_ms")),
    BenchTarget("TTFT p99 added at 256 streams", 10, " ms", _added_figure(STREAMS256, "ttft", "p99_ms")),
    BenchTarget("memory (RSS)", 150, " MiB", _largest_rss),
    BenchTarget("cold start", 2, " s", lambda run: Spread.of(run.cold_start_s.get(TURNTABLE, []))),
)


def bars_table(run: Result) -> str:
    """Render every target with Turntable's figure and the verdict."""
    rows = []
    for target in TARGETS:
        limit = f"≤ {_short(target.limit)}{target.unit}"
        rows.append((target.what, limit, _cell(target.figure(run), target.unit), target.verdict(run)))
    return _table(("what", "bar", "Turntable: median (min to max)", ""), rows)


def ratios_table(run: Result) -> str:
    """Render CPU per request of each system, relative to vllm-router."""
    measured = [name for name in run.systems if name != DIRECT]
    rows = [
        (LABELS[workload], *(_cell(run.ratio(name, ROUTER, workload), "×") for name in measured))
        for workload in (PLAIN, BURST, PACED)
    ]
    return _table(("CPU per request, vllm-router = 1", *measured), rows)


def figures_table(run: Result) -> str:
    """Render the absolute figures of every system."""
    rows: list[tuple[str, ...]] = []
    for workload in (PLAIN, BURST, PACED):
        rows.append((f"{LABELS[workload]}: CPU, µs", *_each(run, workload, lambda sample: sample.cpu_us_per_request)))
        rows.append((f"{LABELS[workload]}: requests/s", *_each(run, workload, lambda sample: sample.requests_per_s)))
    rows += [_added(run, LOAD70, "latency", at) for at in ("p50", "p99")]
    rows += [_added(run, workload, "ttft", at) for workload in (BURST, PACED, STREAMS256) for at in ("p50", "p99")]
    memory = [Spread.of(sample.rss_mib for sample in run.samples if sample.system == name) for name in run.systems]
    rows.append(("memory (RSS), MiB", *map(_cell, memory)))
    rows.append(("cold start, s", *(_cell(Spread.of(run.cold_start_s.get(name, []))) for name in run.systems)))
    return _table(("median (min to max)", *run.systems), rows)


def bottleneck_table(run: Result) -> str:
    """Render the cores used by system, client, engine and other processes: which of them was the bottleneck."""
    rows = []
    for workload in LABELS:
        for name in run.systems:
            found = run.of(name, workload)
            if found:
                cores = ("system_cores", "client_cores", "engine_cores", "other_cores")
                rows.append((LABELS[workload], name, *(_cell(_cores(found, which)) for which in cores)))
    text = _table(("workload", "system", "its cores", "client", "engine", "others"), rows)
    faults = run.faults()
    verdict = f"Every answer was right, and neither client nor engine used more than {BUSY:.0%} of a core."
    lines = [text, "", *([f"* {fault}" for fault in faults] or [verdict])]
    others = max((sample.other_cores for sample in run.samples), default=0.0)
    if others > SHARED_CORES:
        lines += [
            "",
            f"**The machine was shared**: others used up to {_short(others)} cores. Do not quote absolute figures.",
        ]
    return "\n".join(lines)


def origin_lines(run: Result) -> str:
    """Render machine, versions and command."""
    facts = [f"* {name}: {value}" for name, value in {**run.machine, **run.versions}.items()]
    missing = [name for name in NAMES if name in run.left_out]
    left_out = [f"* left out: {', '.join(missing)}"] if missing else []
    measured = f"* {run.started}, {run.rounds} rounds of {run.seconds:g} s: `{run.command}`"
    return "\n".join([*facts, *left_out, measured])


def soak_table(run: Soak) -> str:
    """Render the growth of Turntable's memory over many requests."""
    verdict = "met" if run.slope_mib <= SLOPE_LIMIT_MIB else "missed"
    rows = [
        ("requests", f"{run.requests:,}"),
        ("RSS at the start, at the end", f"{run.rss_mib[0]:.1f} MiB, {run.rss_mib[-1]:.1f} MiB"),
        (f"RSS per 10,000 requests (bar: ≤ {SLOPE_LIMIT_MIB:g} MiB)", f"{run.slope_mib:+.2f} MiB: {verdict}"),
    ]
    return _table(("", "Turntable"), rows)


def _each(run: Result, workload: str, value: Callable[[Sample], float]) -> list[str]:
    return [_cell(run.spread(name, workload, value)) for name in run.systems]


def _added(run: Result, workload: str, metric: str, at: str) -> tuple[str, ...]:
    name = "TTFT" if metric == "ttft" else "latency"
    cells = [_cell(run.added_ms(system, workload, metric, f"{at}_ms")) for system in run.systems if system != DIRECT]
    return (f"{LABELS[workload]}: {name} {at} added, ms", "", *cells)


def _cores(samples: Iterable[Sample], which: str) -> Spread | None:
    return Spread.of(getattr(sample, which) for sample in samples)


def _cell(spread: Spread | None, unit: str = "") -> str:
    if spread is None:
        return ""
    return f"{_short(spread.median)}{unit} ({_short(spread.low)} to {_short(spread.high)})"


def _short(value: float) -> str:
    """Format with three significant digits and no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
