"""A sliding window over the latest requests of one version: how many, how many failed, how slow."""

from collections import deque
from dataclasses import dataclass

_MOST_SAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class Summary:
    """Requests within a window; the 95th percentiles are None without any to take them from."""

    requests: int
    errors: int
    p95_latency_ms: float | None
    p95_ttft_ms: float | None

    @property
    def error_rate(self) -> float:
        """Errors per request; 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0

    def document(self) -> dict[str, float | int | None]:
        """As JSON for operators and the audit log."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "error_rate": round(self.error_rate, 4),
            "p95_latency_ms": self.p95_latency_ms,
            "p95_ttft_ms": self.p95_ttft_ms,
        }


class Window:
    """Keeps what happened within `seconds`, the latest thousand at most. Times are seconds of one clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._samples: deque[tuple[float, float | None, float | None]] = deque(maxlen=_MOST_SAMPLES)

    def failed(self, at_s: float) -> None:
        """Take a request that the engine failed on; how long that took says nothing."""
        self._samples.append((at_s, None, None))

    def answered(self, at_s: float, latency_ms: float, ttft_ms: float | None) -> None:
        """Take an answered request; `ttft_ms` is that of a stream."""
        self._samples.append((at_s, latency_ms, ttft_ms))

    def summary(self, now_s: float) -> Summary:
        """Forget what is too old and sum up the rest."""
        samples = self._samples
        while samples and samples[0][0] < now_s - self.seconds:
            samples.popleft()
        latencies = [latency for _, latency, _ in samples if latency is not None]
        ttfts = [ttft for _, _, ttft in samples if ttft is not None]
        return Summary(len(samples), len(samples) - len(latencies), _p95(latencies), _p95(ttfts))


def _p95(values: list[float]) -> float | None:
    return round(sorted(values)[int(0.95 * (len(values) - 1) + 0.5)], 3) if values else None
