"""The tables of docs/benchmarks.md, written from the JSON of a run."""

from collections.abc import Callable, Iterable

from loadtest.bench.results import BARS, BUSY, SLOPE_LIMIT_MIB, Result, Sample, Soak, Spread
from loadtest.bench.systems import DIRECT, NAMES, ROUTER
from loadtest.bench.workloads import BURST, LOAD70, PACED, PLAIN, STREAMS256

LABELS = {
    PLAIN: "plain request",
    BURST: "50-chunk stream, burst",
    PACED: "50-chunk stream, 10 ms apart",
    LOAD70: "plain requests at 70 % load",
    STREAMS256: "256 streams at a time",
}

SHARED_CORES = 0.25
"""Above this, somebody else's work is in the figures."""


def bars(run: Result) -> str:
    """Every bar with Turntable's figure and the verdict."""
    rows = []
    for bar in BARS:
        limit = f"≤ {_short(bar.limit)}{bar.unit}"
        rows.append((bar.what, limit, _cell(bar.figure(run), bar.unit), bar.verdict(run)))
    return _table(("what", "bar", "Turntable: median (min to max)", ""), rows)


def ratios(run: Result) -> str:
    """CPU per request of each system over vllm-router's, which is 1."""
    measured = [name for name in run.systems if name != DIRECT]
    rows = [
        (LABELS[workload], *(_cell(run.ratio(name, ROUTER, workload), "×") for name in measured))
        for workload in (PLAIN, BURST, PACED)
    ]
    return _table(("CPU per request, vllm-router = 1", *measured), rows)


def figures(run: Result) -> str:
    """The absolute figures of every system."""
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


def bottleneck(run: Result) -> str:
    """Who was busy: cores used by the system, the client, the engine and everybody else on the machine."""
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


def origin(run: Result) -> str:
    """Machine, versions and command."""
    facts = [f"* {name}: {value}" for name, value in {**run.machine, **run.versions}.items()]
    missing = [name for name in NAMES if name in run.left_out]
    left_out = [f"* left out: {', '.join(missing)}"] if missing else []
    measured = f"* {run.started}, {run.rounds} rounds of {run.seconds:g} s: `{run.command}`"
    return "\n".join([*facts, *left_out, measured])


def soak(run: Soak) -> str:
    """How Turntable's memory moved over many requests."""
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
    """Three digits that mean something, and no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
