"""Shadow traffic: send answered requests of a name to another version as well, and compare the two answers.

A shadow request runs through the inference pipeline, so its tokens are on the ledger (under the key `shadow`). It
starts only after its original has been answered and while no request waits; otherwise it is dropped and counted. Its
answer is never sent to a client.
"""

import difflib
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

from adapters import Registry
from gateway.auth import Caller, Scope
from gateway.background import TaskSet
from gateway.clock import now_us
from gateway.core import RequestContext, Track, Usage
from gateway.errors import GatewayError
from gateway.inference.admission import Admission
from gateway.inference.formats.base import dump
from gateway.inference.pipeline import InferencePipeline
from gateway.inference.request_guards import UNSERVED_FIELDS
from gateway.inference.request_run import NoClient
from gateway.metering import SHADOW_KEY, Finish, LedgerEntry
from gateway.metrics import TrafficMetrics
from gateway.releases.answer_text import text_of
from gateway.threads import REPORTS

log = logging.getLogger(__name__)
_CALLER = Caller(key_id=SHADOW_KEY, tenant=SHADOW_KEY, scopes=frozenset({Scope.INFERENCE}))
_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_MAX_COMPARED_WORDS = 500  # the time of a comparison grows with the square: 0.3 s for this many
_MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ShadowAnswer:
    """The compared properties of one answer."""

    latency_ms: float
    usage: Usage
    text: str

    @classmethod
    def of(cls, entry: LedgerEntry, text: str) -> "ShadowAnswer":
        """Build it from the ledger entry of a request that has just finished."""
        return cls((now_us() - entry.opened_us) / 1e3, entry.usage, text)


@dataclass(slots=True)
class ShadowSide:
    """Sums over the compared answers of one version."""

    latency_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, answer: ShadowAnswer) -> None:
        """Add one answer."""
        self.latency_ms += answer.latency_ms
        self.prompt_tokens += answer.usage.prompt_tokens
        self.completion_tokens += answer.usage.completion_tokens

    def document(self, answers: int) -> dict[str, Any]:
        """Return the sums as JSON; the mean is None without answers."""
        return {
            "mean_latency_ms": round(self.latency_ms / answers, 3) if answers else None,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(slots=True)
class ShadowStats:
    """Comparison of a shadow with its live version on this gateway, since either of them last changed."""

    live_version: int
    shadow_version: int
    answered: int = 0
    failed: int = 0
    dropped: int = 0
    greedy: int = 0
    """Pairs at temperature 0: only their texts are compared."""
    equal: int = 0
    similarity: float = 0.0
    live: ShadowSide = field(default_factory=ShadowSide)
    shadow: ShadowSide = field(default_factory=ShadowSide)

    def add_sampled(self, live: ShadowAnswer, shadow: ShadowAnswer) -> None:
        """Add a pair of sampled answers, whose texts are not compared."""
        self.answered += 1
        self.live.add(live)
        self.shadow.add(shadow)

    def add_greedy(self, live: ShadowAnswer, shadow: ShadowAnswer, similarity: float) -> None:
        """Add a pair of greedy answers; `similarity` is 1 when the texts are equal."""
        self.add_sampled(live, shadow)
        self.greedy += 1
        self.equal += similarity == 1
        self.similarity += similarity

    def document(self) -> dict[str, Any]:
        """Return the comparison as JSON for operators."""
        return {
            "answered": self.answered,
            "failed": self.failed,
            "dropped": self.dropped,
            "compared_texts": self.greedy,
            "equal_texts": self.equal,
            "mean_similarity": round(self.similarity / self.greedy, 4) if self.greedy else None,
            "live": self.live.document(self.answered),
            "shadow": self.shadow.document(self.answered),
        }


@dataclass(slots=True)
class _PendingComparison:
    """A live answer whose shadow request is running."""

    stats: ShadowStats
    live: ShadowAnswer


class Shadows:
    """Sends shadow requests for finished requests (`ended`), at most `max_running` at a time."""

    def __init__(
        self,
        *,
        registry: Registry,
        inference: InferencePipeline,
        admission: Admission,
        metrics: TrafficMetrics,
        running: TaskSet,
        max_running: int,
    ) -> None:
        self._registry = registry
        self._inference = inference
        self._admission = admission
        self._metrics = metrics
        self._max_running = max_running
        self._stats: dict[str, ShadowStats] = {}
        self._pairs: dict[str, _PendingComparison] = {}
        self._tasks = running

    def ended(self, context: RequestContext, entry: LedgerEntry) -> None:
        """Send the shadow of an answered request selected for it; compare a finished shadow with its original."""
        if context.target.track is Track.SHADOW:
            self._finish(context, entry)
        elif context.shadow_target is not None and entry.finish is Finish.COMPLETED and context.api.path in _PATHS:
            self._start(context, entry)

    def describe(self, name: str) -> dict[str, Any] | None:
        """Return this gateway's comparison of a name's shadow with its live version; None without a shadow."""
        stats = self._stats_of(name)
        return stats.document() if stats else None

    async def close(self) -> None:
        """Cancel running shadow requests."""
        await self._tasks.cancel()

    def _stats_of(self, name: str) -> ShadowStats | None:
        policy = self._registry.snapshot.policies.get(name)
        if policy is None or policy.shadow is None or policy.live is None:
            self._stats.pop(name, None)
            return None
        stats, pair = self._stats.get(name), (policy.live, policy.shadow.version)
        if stats is None or (stats.live_version, stats.shadow_version) != pair:
            stats = self._stats[name] = ShadowStats(*pair)
        return stats

    def _start(self, context: RequestContext, entry: LedgerEntry) -> None:
        assert context.shadow_target is not None, "the request was selected for a shadow"
        assert context.shadow_target.version is not None, "shadows are of adapters"
        name = context.shadow_target.version.name
        stats = self._stats_of(name)
        if stats is None or stats.shadow_version != context.shadow_target.version.version:
            return  # the shadow was ended or replaced while this request ran
        captured = b"".join(context.captured or ())
        if len(self._tasks) >= self._max_running or not self._admission.is_quiet or len(captured) > _MAX_ANSWER_BYTES:
            self._drop(name, stats)
            return
        live = ShadowAnswer.of(entry, text_of(captured, is_stream=entry.stream))
        shadow = _shadow_request(context)
        self._pairs[shadow.id] = _PendingComparison(stats, live)
        self._tasks.start(self._send(shadow, name))

    async def _send(self, context: RequestContext, name: str) -> None:
        try:
            await self._inference.serve(context, NoClient())
        except GatewayError as error:
            log.debug("shadow request %s: %s", context.id, error)
        finally:
            if pair := self._pairs.pop(context.id, None):
                self._drop(name, pair.stats)  # it failed before it reached the engine

    def _finish(self, context: RequestContext, entry: LedgerEntry) -> None:
        pair = self._pairs.pop(context.id)
        assert context.target.version is not None, "shadows are of adapters"
        name = context.target.version.name
        if entry.finish is not Finish.COMPLETED:
            pair.stats.failed += 1
            self._metrics.shadow_requests.labels(name, "failed").inc()
            return
        shadow = ShadowAnswer.of(entry, text_of(b"".join(context.captured or ()), is_stream=False))
        if context.request.document.get("temperature") != 0:
            pair.stats.add_sampled(pair.live, shadow)
            self._metrics.shadow_requests.labels(name, "answered").inc()
            return
        self._tasks.start(self._compare(pair, shadow, name))

    async def _compare(self, pair: _PendingComparison, shadow: ShadowAnswer, name: str) -> None:
        score = await REPORTS.run(similarity, pair.live.text, shadow.text)
        pair.stats.add_greedy(pair.live, shadow, score)
        self._metrics.shadow_requests.labels(name, "equal" if score == 1 else "different").inc()

    def _drop(self, name: str, stats: ShadowStats) -> None:
        stats.dropped += 1
        self._metrics.shadow_requests.labels(name, "dropped").inc()


def _shadow_request(context: RequestContext) -> RequestContext:
    """Copy a request for its shadow: not streamed, under the gateway's own key, with its own fingerprint."""
    assert context.shadow_target is not None, "the request was selected for a shadow"
    removed = ("stream", "stream_options", *UNSERVED_FIELDS)
    document = {name: value for name, value in context.request.document.items() if name not in removed}
    # A different body: if it crashes the engine, the client's own request is not treated as a poison request.
    body = b"shadow " + dump(document)
    request = replace(context.request, stream=False, document=document, body=body)
    shadow = RequestContext(f"{context.id}-shadow", None, context.api, {}, received_s=time.perf_counter(), captured=[])
    shadow.caller, shadow.request, shadow.target = _CALLER, request, context.shadow_target
    return shadow


def similarity(left: str, right: str) -> float:
    """Return 1 for equal texts, else the share of words in common and in order, of the first `_MAX_COMPARED_WORDS`."""
    if left == right:
        return 1.0
    words = left.split()[:_MAX_COMPARED_WORDS], right.split()[:_MAX_COMPARED_WORDS]
    return min(difflib.SequenceMatcher(None, *words, autojunk=False).ratio(), 0.9999)
