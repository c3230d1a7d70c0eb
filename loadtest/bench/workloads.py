"""What is asked of every system: plain requests, streams in a burst, paced streams, 70 % load, 256 streams."""

from dataclasses import dataclass

from loadtest.bench.driver import Phase

PLAIN, BURST, LOAD70, PACED, STREAMS256 = "plain", "burst", "load70", "paced", "streams256"
PLAIN_WORDS, STREAM_WORDS = 16, 50
PACE_MS, SLOW_PACE_MS = 10, 50
STREAMS = 256
LOAD = 0.7


@dataclass(frozen=True, slots=True)
class Stage:
    """Workloads that share one pace of the engine; every system is started anew for each, which times cold starts."""

    itl_ms: float
    workloads: tuple[str, ...]


STAGES = (Stage(0, (PLAIN, BURST, LOAD70)), Stage(PACE_MS, (PACED,)), Stage(SLOW_PACE_MS, (STREAMS256,)))


def phase(workload: str, port: int, key: str, seconds: float, rate_per_s: float = 0, seed: int = 0) -> Phase:
    """One phase of a workload against one server; `seconds` is its length, ramps come on top."""
    stream = workload in (BURST, PACED, STREAMS256)
    words = STREAM_WORDS if stream else PLAIN_WORDS
    stream_s = STREAM_WORDS * SLOW_PACE_MS / 1000
    match workload:
        case "streams256":
            # In the steady state, arrivals per second times the length of a stream are the streams at a time.
            rate, length_s = STREAMS / stream_s, stream_s + seconds
            return Phase(port, key, stream, words, length_s, rate_per_s=rate, even=True, ramp_s=stream_s)
        case "load70":
            return Phase(port, key, stream, words, seconds, rate_per_s=rate_per_s, seed=seed)
        case _:
            workers = 32 if workload == PACED else 16
            return Phase(port, key, stream, words, seconds, concurrency=workers)
