"""Canaries: the canary version of a name against its live one over a sliding window, taken back when it is worse.

Each gateway watches what went through itself. Only the engine's failures count: what a client did wrong, or a client
that left, says nothing about a version.

A sliding window over the latest requests of one version: how many, how many failed, how slow.
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

_MOST_SAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class WindowSummary:
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


class RequestWindow:
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

    def summary(self, now_s: float) -> WindowSummary:
        """Forget what is too old and sum up the rest."""
        samples = self._samples
        while samples and samples[0][0] < now_s - self.seconds:
            samples.popleft()
        latencies = [latency for _, latency, _ in samples if latency is not None]
        ttfts = [ttft for _, _, ttft in samples if ttft is not None]
        return WindowSummary(len(samples), len(samples) - len(latencies), _p95(latencies), _p95(ttfts))


def _p95(values: list[float]) -> float | None:
    return round(sorted(values)[int(0.95 * (len(values) - 1) + 0.5)], 3) if values else None


log = logging.getLogger(__name__)
ACTOR = "gateway"
BOUNDS_EVIDENCE = "canary_bounds"
"""Under which the registry keeps the bounds that an operator set for a canary."""
# Below this nobody feels a difference, and a ratio of small numbers is noise.
_SLACK_MS = 50.0
_CHECK_EVERY = 8
_LOOK_S = 1.0
# The engine refused the adapter, failed, or was too slow. A full queue or an engine that is down is nobody's fault.
_VERSION_AT_FAULT = frozenset({422, 500, 502, 504})
# The engine gave up on the request: the body may be at fault, whatever the version.
_BODY_AT_FAULT = frozenset({500, 502})
_MOST_KINDS = 4096


@dataclass(frozen=True, slots=True)
class CanaryLimits:
    """How much worse than the live version a canary may be before it is taken back.

    `max_extra_error_rate` is added to the live version's error rate; `max_latency_ratio` bounds the 95th percentiles of
    the whole answer and of streams' time to first token; neither is judged before `min_requests` within `window_s`.
    """

    max_extra_error_rate: float = 0.05
    max_latency_ratio: float = 2.0
    min_requests: int = 20
    window_s: float = 300.0


def broken_bound(canary: WindowSummary, live: WindowSummary, bounds: CanaryLimits) -> str | None:
    """In which way the canary is worse than its bounds allow, as a sentence; None while it is not."""
    if canary.requests < bounds.min_requests:
        return None
    if canary.error_rate > live.error_rate + bounds.max_extra_error_rate:
        return (
            f"its error rate is {canary.error_rate:.1%} against {live.error_rate:.1%}; "
            f"{bounds.max_extra_error_rate:.1%} more is allowed"
        )
    if live.requests < bounds.min_requests:
        return None
    for what, ours, theirs in (
        ("latency", canary.p95_latency_ms, live.p95_latency_ms),
        ("time to first token", canary.p95_ttft_ms, live.p95_ttft_ms),
    ):
        if ours is None or theirs is None:
            continue
        if ours > max(theirs * bounds.max_latency_ratio, theirs + _SLACK_MS):
            return f"its p95 {what} is {ours:.0f} ms against {theirs:.0f} ms; {bounds.max_latency_ratio:g} x is allowed"
    return None


@dataclass(slots=True)
class CanaryComparison:
    """One canary against the version that was live beside it."""

    live_version: int
    canary_version: int
    bounds: CanaryLimits | None = None
    """What the operator said when the canary began; None until the database has told, and nothing is judged so long."""
    read_from: RegistrySnapshot | None = None
    """As the registry was when the bounds were read: they may change with it."""
    live: RequestWindow = field(default_factory=lambda: RequestWindow(CanaryLimits().window_s))
    canary: RequestWindow = field(default_factory=lambda: RequestWindow(CanaryLimits().window_s))
    seen: int = 0
    """Canary requests since the beginning."""
    is_taken_back: bool = False
    retry_s: float = 0.0
    """When it may be tried again to take it back, after that failed."""
    answered: set[bytes] = field(default_factory=set)
    """Kinds of bodies, other than plain ones, that either version has answered."""

    def blames_version(self, context: RequestContext, status: int) -> bool:
        """Whether a failure tells of the version: one on a body of a kind that nobody ever answered does not, since any
        version may fail on it, and one caller could have a canary taken back.
        """
        kind = body_kind(context.request.document) if status in _BODY_AT_FAULT else None
        return kind is None or kind in self.answered

    def learn(self, context: RequestContext) -> None:
        """A version has answered this kind of body."""
        if (kind := body_kind(context.request.document)) is not None and len(self.answered) < _MOST_KINDS:
            self.answered.add(kind)

    def keep_to(self, bounds: CanaryLimits) -> None:
        """From now on judge by these bounds."""
        self.bounds = bounds
        self.live.seconds = self.canary.seconds = bounds.window_s


class CanaryMonitor:
    """Watches every canary of the registry; `ended` sees each request at its end."""

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

    async def look(self) -> None:
        """Read the bounds that are not known yet, and judge every canary by them."""
        failures: list[Exception] = []
        for name, comparison in list(self._comparisons.items()):
            try:
                await self._read_bounds(name, comparison)
            except Exception as error:  # the other canaries are judged first
                failures.append(error)
            self._judge(name, comparison, self._clock())
        for failure in failures:
            raise failure

    def ended(self, context: RequestContext, entry: LedgerEntry) -> None:
        """Take a request into its window when its name has a canary, and take the canary back when that is broken."""
        track = context.target.track
        if track is not Track.LIVE and track is not Track.CANARY:
            return
        failed = entry.status in _VERSION_AT_FAULT
        if not failed and entry.finish is not Finish.COMPLETED:
            return
        assert context.target.version is not None, "tracks are of adapters"
        name, number = context.target.version.name, context.target.version.version
        comparison = self._comparison(name)
        if comparison is None or number not in (comparison.live_version, comparison.canary_version):
            return  # the canary ended, or another began, while this request ran
        if failed and not comparison.blames_version(context, entry.status):
            return
        if not failed:
            comparison.learn(context)
        is_canary = number == comparison.canary_version
        self._metrics.canary_requests.labels(name, str(track), "failed" if failed else "answered").inc()
        window, now_s = comparison.canary if is_canary else comparison.live, self._clock()
        if failed:
            window.failed(now_s)
        else:
            ttft_ms = entry.ttft_us / 1e3 if entry.stream and entry.ttft_us is not None else None
            window.answered(now_s, (now_us() - entry.opened_us) / 1e3, ttft_ms)
        if is_canary:
            comparison.seen += 1
            if failed or comparison.seen % _CHECK_EVERY == 0:
                self._judge(name, comparison, now_s)

    def describe(self, name: str) -> dict[str, Any] | None:
        """The canary of a name beside its live version as this gateway has seen them; None while it saw nothing."""
        comparison = self._comparisons.get(name)
        if comparison is None or not self._is_current(name, comparison):
            return None
        now_s = self._clock()
        return {
            "bounds": asdict(comparison.bounds or CanaryLimits()),
            "live": comparison.live.summary(now_s).document(),
            "canary": comparison.canary.summary(now_s).document(),
        }

    async def close(self) -> None:
        """Wait for what is being taken back."""
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
        self._rollbacks.start(self._read_bounds(name, comparison))
        return comparison

    async def _read_bounds(self, name: str, comparison: CanaryComparison) -> None:
        """What the operator said when the canary began; it may have begun before this gateway did."""
        snapshot = self._registry.snapshot
        if snapshot is comparison.read_from or not self._is_current(name, comparison):
            return
        kept = await CRITICAL.run(self._registry.evidence, name, comparison.canary_version)
        document = next((found.document for found in kept if found.kind == BOUNDS_EVIDENCE), {})
        comparison.keep_to(CanaryLimits(**document))
        comparison.read_from = snapshot

    def _judge(self, name: str, comparison: CanaryComparison, now_s: float) -> None:
        if comparison.bounds is None or comparison.is_taken_back or now_s < comparison.retry_s:
            return
        canary, live = comparison.canary.summary(now_s), comparison.live.summary(now_s)
        broken = broken_bound(canary, live, comparison.bounds)
        if broken is None or not self._is_current(name, comparison):
            return
        comparison.is_taken_back = True
        evidence = {
            "broken": broken,
            "canary": f"v{comparison.canary_version}",
            "live": f"v{comparison.live_version}",
            "bounds": asdict(comparison.bounds),
            "canary_window": canary.document(),
            "live_window": live.document(),
        }
        self._rollbacks.start(self._take_back(name, comparison, evidence))

    async def _take_back(self, name: str, comparison: CanaryComparison, evidence: dict[str, Any]) -> None:
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
            return  # an operator was faster, and what is there now is not what was judged
        except BaseException:
            comparison.is_taken_back, comparison.retry_s = False, self._clock() + _LOOK_S
            raise
        log.warning("canary %s@v%d was taken back: %s", name, comparison.canary_version, evidence["broken"])
        self._metrics.canary_rollbacks.labels(name).inc()
