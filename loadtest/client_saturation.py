"""Detect client saturation: lateness and CPU share of the load tester itself, against limits."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Self

from loadtest.statistics import Distribution, Samples

MOST_CPU_SHARE = 0.9
IDLE_CPU_SHARE = 0.5
"""A late process that used less was waiting for a core: other work kept the machine busy."""
MOST_LAG_MS = 10.0
MOST_LAG_SHARE_OF_TTFT = 0.05
LEAST_FOR_P99 = 500
"""With fewer requests a single hiccup of the machine is the 99th percentile: the 90th is judged instead."""
LEAST_JUDGED_S = 1.0
"""Shorter tests say nothing about processor time: starting up is most of it."""
TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class ClientLoad:
    """Load of the client: CPU time and event loop lag."""

    processes: int
    cpu_s: float
    """Of all processes together."""
    cpu_share: float
    """CPU time over wall time, of the busiest process."""
    loop_lag: Distribution | None


@dataclass(slots=True)
class SaturationMeter:
    """Measures CPU time and event loop lag of the current thread; mergeable across processes."""

    cpu_s: float = 0.0
    cpu_share: float = 0.0
    processes: int = 1
    loop_lag: Samples = field(default_factory=Samples)
    _ticking: "asyncio.Task[None] | None" = None
    _began_s: float = 0.0
    _began_cpu_s: float = 0.0

    async def __aenter__(self) -> Self:
        self._began_s, self._began_cpu_s = time.perf_counter(), time.thread_time()
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        took_s = time.perf_counter() - self._began_s
        self.cpu_s = time.thread_time() - self._began_cpu_s
        self.cpu_share = self.cpu_s / took_s if took_s else 0.0
        if self._ticking:
            self._ticking.cancel()
            self._ticking = None

    def merge(self, other: "SaturationMeter") -> None:
        """Merge the measurement of another process."""
        self.cpu_s += other.cpu_s
        self.cpu_share = max(self.cpu_share, other.cpu_share)
        self.processes += other.processes
        self.loop_lag.merge(other.loop_lag)

    def load(self) -> ClientLoad:
        """Return the measured load."""
        return ClientLoad(self.processes, self.cpu_s, self.cpu_share, self.loop_lag.distribution())

    async def _tick(self) -> None:
        while True:
            due_s = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            self.loop_lag.add((max(0.0, time.perf_counter() - due_s) * 1000,))


def client_bound(client: ClientLoad, lag: Distribution | None, ttft: Distribution | None, over_s: float) -> list[str]:
    """List why the client, not the server, was the bottleneck, as sentences; empty when it was not.

    `lag` is the client's own lateness per request of an open loop; None in a closed one.
    """
    reasons = []
    if over_s >= LEAST_JUDGED_S and client.cpu_share > MOST_CPU_SHARE:
        reasons.append(
            f"a client process used {client.cpu_share:.0%} of a core (limit {MOST_CPU_SHARE:.0%}): "
            "use more --processes, or a faster machine."
        )
    late = _late(lag) if lag else None
    allowed_ms = max(MOST_LAG_MS, MOST_LAG_SHARE_OF_TTFT * ttft.p50_ms if ttft else 0.0)
    if late and late[1] > allowed_ms:
        idle = client.cpu_share < IDLE_CPU_SHARE
        remedy = "the machine was busy with other work" if idle else "use more --processes or a lower rate"
        reasons.append(
            f"{late[0]} of the requests left more than {late[1]:.1f} ms late by the client's own fault "
            f"(limit {allowed_ms:.1f} ms), at {client.cpu_share:.0%} of a core: {remedy}."
        )
    return reasons


def _late(lag: Distribution) -> tuple[str, float]:
    return ("1 %", lag.p99_ms) if lag.count >= LEAST_FOR_P99 else ("10 %", lag.p90_ms)
