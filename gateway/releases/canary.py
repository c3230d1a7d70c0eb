"""Canaries: compare a canary with the live version over a sliding window, and roll it back beyond its limits.

Each gateway judges the requests that it has served itself. Only failures of the engine count: a client's bad request or
disconnect says nothing about a version.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from adapters import Registry, RegistrySnapshot, StaleLiveError
from gateway.background import TaskSet
from gateway.clock import now_us
from gateway.core import RequestContext, Track
from gateway.inference.poison_requests import body_kind
from gateway.metering import Finish, LedgerEntry
from gateway.metrics import TrafficMetrics
from gateway.threads import CRITICAL

log = logging.getLogger(__name__)
ACTOR = "gateway"
BOUNDS_EVIDENCE = "canary_bounds"
"""Kind of evidence: the limits that an operator set for a canary."""
_MAX_SAMPLES = 1_000
_MIN_SLOWDOWN_MS = 50.0
"""A smaller slowdown never breaks a latency limit: users do not notice it, and ratios of short times are noise."""
_CHECK_EVERY = 8
_RETRY_S = 1.0
_VERSION_FAILURES = frozenset({422, 500, 502, 504})
"""Statuses that count against a version: the engine refused the adapter, failed, or timed out."""
_BODY_FAILURES = frozenset({500, 502})
"""Statuses for which the request body may be the cause, with any version."""
_MAX_BODY_KINDS = 4096


@dataclass(frozen=True, slots=True)
class CanaryLimits:
    """How much worse than the live version a canary may be before it is rolled back.

    `max_extra_error_rate` is added to the live version's error rate; `max_latency_ratio` limits the 95th percentiles of
    latency and of streams' time to first token; neither is checked before `min_requests` within `window_s`.
    """

    max_extra_error_rate: float = 0.05
    max_latency_ratio: float = 2.0
    min_requests: int = 20
    window_s: float = 300.0


@dataclass(frozen=True, slots=True)
class WindowSummary:
    """Requests within a window; a 95th percentile is None without samples."""

    requests: int
    errors: int
    p95_latency_ms: float | None
    p95_ttft_ms: float | None

    @property
    def error_rate(self) -> float:
        """Errors per request; 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0

    def document(self) -> dict[str, float | int | None]:
        """Return the summary as JSON for operators and the audit log."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "error_rate": round(self.error_rate, 4),
            "p95_latency_ms": self.p95_latency_ms,
            "p95_ttft_ms": self.p95_ttft_ms,
        }


class RequestWindow:
    """Sliding window over the requests of one version: those of the last `seconds`, at most `_MAX_SAMPLES`.

    Times (`_s`) are of the monitor's clock.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._samples: deque[tuple[float, float | None, float | None]] = deque(maxlen=_MAX_SAMPLES)

    def failed(self, at_s: float) -> None:
        """Add a request that the engine failed on; its latency is not used."""
        self._samples.append((at_s, None, None))

    def answered(self, at_s: float, latency_ms: float, ttft_ms: float | None) -> None:
        """Add an answered request; `ttft_ms` is None unless it streamed."""
        self._samples.append((at_s, latency_ms, ttft_ms))

    def summary(self, now_s: float) -> WindowSummary:
        """Drop samples older than the window and summarize the rest."""
        samples = self._samples
        while samples and samples[0][0] < now_s - self.seconds:
            samples.popleft()
        latencies = [latency for _, latency, _ in samples if latency is not None]
        ttfts = [ttft for _, _, ttft in samples if ttft is not None]
        return WindowSummary(len(samples), len(samples) - len(latencies), _p95(latencies), _p95(ttfts))


@dataclass(slots=True)
class CanaryComparison:
    """One canary and the live version beside it."""

    live_version: int
    canary_version: int
    limits: CanaryLimits | None = None
    """The operator's limits; None until they are read from the database, and nothing is judged before."""
    read_from: RegistrySnapshot | None = None
    """The registry snapshot when the limits were read; a new one may come with new limits."""
    live: RequestWindow = field(default_factory=lambda: RequestWindow(CanaryLimits().window_s))
    canary: RequestWindow = field(default_factory=lambda: RequestWindow(CanaryLimits().window_s))
    canary_requests: int = 0
    is_rolled_back: bool = False
    retry_s: float = 0.0
    """Earliest time of another rollback, after one has failed."""
    answered_kinds: set[bytes] = field(default_factory=set)
    """Kinds of bodies, other than plain ones, that either version has answered."""

    def counts_failure(self, context: RequestContext, status: int) -> bool:
        """Whether a failure counts against the version.

        Not if neither version ever answered such a body: any version may fail on it, and a single caller could have a
        canary rolled back.
        """
        kind = body_kind(context.request.document) if status in _BODY_FAILURES else None
        return kind is None or kind in self.answered_kinds

    def add_answered(self, context: RequestContext) -> None:
        """Note that a version has answered this kind of body."""
        if (kind := body_kind(context.request.document)) is not None and len(self.answered_kinds) < _MAX_BODY_KINDS:
            self.answered_kinds.add(kind)

    def set_limits(self, limits: CanaryLimits) -> None:
        """Judge by these limits from now on."""
        self.limits = limits
        self.live.seconds = self.canary.seconds = limits.window_s


class CanaryMonitor:
    """Compares every canary of the registry with its live version; `ended` is called with each finished request."""

    def __init__(
        self,
        registry: Registry,
        metrics: TrafficMetrics,
        rollbacks: TaskSet,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._clock = clock
        self._comparisons: dict[str, CanaryComparison] = {}
        self._rollbacks = rollbacks

    async def check(self) -> None:
        """Read the limits that are not known yet, and judge every canary; a periodic task."""
        failures: list[Exception] = []
        for name, comparison in list(self._comparisons.items()):
            try:
                await self._read_limits(name, comparison)
            except Exception as error:  # raised after the other canaries are judged
                failures.append(error)
            self._judge(name, comparison, self._clock())
        for failure in failures:
            raise failure

    def ended(self, context: RequestContext, entry: LedgerEntry) -> None:
        """Record a finished request; roll the canary back when it exceeds its limits."""
        track = context.target.track
        if track is not Track.LIVE and track is not Track.CANARY:
            return
        failed = entry.status in _VERSION_FAILURES
        if not failed and entry.finish is not Finish.COMPLETED:
            return
        assert context.target.version is not None, "tracks are of adapters"
        name, number = context.target.version.name, context.target.version.version
        comparison = self._comparison(name)
        if comparison is None or number not in (comparison.live_version, comparison.canary_version):
            return  # the canary was ended or replaced while this request ran
        if failed and not comparison.counts_failure(context, entry.status):
            return
        if not failed:
            comparison.add_answered(context)
        is_canary = number == comparison.canary_version
        self._metrics.canary_requests.labels(name, str(track), "failed" if failed else "answered").inc()
        window, now_s = comparison.canary if is_canary else comparison.live, self._clock()
        if failed:
            window.failed(now_s)
        else:
            ttft_ms = entry.ttft_us / 1e3 if entry.stream and entry.ttft_us is not None else None
            window.answered(now_s, (now_us() - entry.opened_us) / 1e3, ttft_ms)
        if is_canary:
            comparison.canary_requests += 1
            if failed or comparison.canary_requests % _CHECK_EVERY == 0:
                self._judge(name, comparison, now_s)

    def describe(self, name: str) -> dict[str, Any] | None:
        """Return this gateway's comparison of a name's canary with its live version; None without requests yet."""
        comparison = self._comparisons.get(name)
        if comparison is None or not self._is_current(name, comparison):
            return None
        now_s = self._clock()
        return {
            "bounds": asdict(comparison.limits or CanaryLimits()),
            "live": comparison.live.summary(now_s).document(),
            "canary": comparison.canary.summary(now_s).document(),
        }

    async def close(self) -> None:
        """Wait for running rollbacks."""
        await self._rollbacks.join()

    def _is_current(self, name: str, comparison: CanaryComparison) -> bool:
        policy = self._registry.snapshot.policies.get(name)
        if policy is None or policy.canary is None:
            return False
        return (policy.live, policy.canary.version) == (comparison.live_version, comparison.canary_version)

    def _comparison(self, name: str) -> CanaryComparison | None:
        comparison = self._comparisons.get(name)
        if comparison is not None and self._is_current(name, comparison):
            return comparison
        self._comparisons.pop(name, None)
        policy = self._registry.snapshot.policies.get(name)
        if policy is None or policy.canary is None or policy.live is None:
            return None
        comparison = self._comparisons[name] = CanaryComparison(policy.live, policy.canary.version)
        self._rollbacks.start(self._read_limits(name, comparison))
        return comparison

    async def _read_limits(self, name: str, comparison: CanaryComparison) -> None:
        """Read the operator's limits of a canary, which may be older than this gateway, unless they are current."""
        snapshot = self._registry.snapshot
        if snapshot is comparison.read_from or not self._is_current(name, comparison):
            return
        evidence = await CRITICAL.run(self._registry.evidence, name, comparison.canary_version)
        document = next((found.document for found in evidence if found.kind == BOUNDS_EVIDENCE), {})
        comparison.set_limits(CanaryLimits(**document))
        comparison.read_from = snapshot

    def _judge(self, name: str, comparison: CanaryComparison, now_s: float) -> None:
        if comparison.limits is None or comparison.is_rolled_back or now_s < comparison.retry_s:
            return
        canary, live = comparison.canary.summary(now_s), comparison.live.summary(now_s)
        exceeded = exceeded_limit(canary, live, comparison.limits)
        if exceeded is None or not self._is_current(name, comparison):
            return
        comparison.is_rolled_back = True
        evidence = {
            "broken": exceeded,
            "canary": f"v{comparison.canary_version}",
            "live": f"v{comparison.live_version}",
            "bounds": asdict(comparison.limits),
            "canary_window": canary.document(),
            "live_window": live.document(),
        }
        self._rollbacks.start(self._roll_back(name, comparison, evidence))

    async def _roll_back(self, name: str, comparison: CanaryComparison, evidence: dict[str, Any]) -> None:
        clear = partial(
            self._registry.clear_canary,
            name,
            actor=ACTOR,
            expect_live=comparison.live_version,
            expect_canary=comparison.canary_version,
            evidence=evidence,
        )
        try:
            await CRITICAL.run(clear)
        except StaleLiveError:
            return  # an operator has changed the canary or the live version since it was judged
        except BaseException:
            comparison.is_rolled_back, comparison.retry_s = False, self._clock() + _RETRY_S
            raise
        log.warning("canary %s@v%d was rolled back: %s", name, comparison.canary_version, evidence["broken"])
        self._metrics.canary_rollbacks.labels(name).inc()


def exceeded_limit(canary: WindowSummary, live: WindowSummary, limits: CanaryLimits) -> str | None:
    """Describe the limit that the canary exceeds as a sentence; None while it exceeds none."""
    if canary.requests < limits.min_requests:
        return None
    if canary.error_rate > live.error_rate + limits.max_extra_error_rate:
        return (
            f"its error rate is {canary.error_rate:.1%} against {live.error_rate:.1%} of the live version; "
            f"{limits.max_extra_error_rate:.1%} more is allowed"
        )
    if live.requests < limits.min_requests:
        return None
    for measure, canary_ms, live_ms in (
        ("latency", canary.p95_latency_ms, live.p95_latency_ms),
        ("time to first token", canary.p95_ttft_ms, live.p95_ttft_ms),
    ):
        if canary_ms is None or live_ms is None:
            continue
        if canary_ms > max(live_ms * limits.max_latency_ratio, live_ms + _MIN_SLOWDOWN_MS):
            return (
                f"its p95 {measure} is {canary_ms:.0f} ms against {live_ms:.0f} ms of the live version; "
                f"{limits.max_latency_ratio:g} times as much is allowed"
            )
    return None


def _p95(values: list[float]) -> float | None:
    return round(sorted(values)[int(0.95 * (len(values) - 1) + 0.5)], 3) if values else None
