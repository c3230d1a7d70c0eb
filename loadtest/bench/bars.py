"""The bars Turntable is held to, each a ratio or a difference within one run."""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.bench.results import Result, Spread
from loadtest.bench.systems import LITELLM, ROUTER, TURNTABLE
from loadtest.bench.workloads import BURST, LOAD70, PACED, PLAIN, STREAMS256


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
