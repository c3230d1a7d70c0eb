"""A sample of live answers, looked at after they went out: what they are like is counted, what they say is not kept.

Only versions are watched whose training left a baseline to compare with, and never more of their answers than
`watch_percent` says. What comes faster than it can be looked at is left out and counted.

How an answer ended, in any of the APIs: by itself, at a limit, or otherwise.
"""

import logging
import random
import re
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric
from sqlalchemy.exc import SQLAlchemyError

from adapters import Version
from adapters.answer_profile import LENGTH, STOP, Baseline, ProfiledAnswer
from adapters.answer_profile import OTHER as OTHERWISE
from gateway.core import RequestContext, Target, Track, Usage
from gateway.metering import Entry, Finish
from gateway.quality.drift import AnswerProfileStore, Key, today
from gateway.releases.answer_text import text_of

# Outside of JSON strings every quote is bare, inside it is escaped: text that a model wrote cannot match.
_REASON = re.compile(rb'(?<!\\)"(?:finish_reason|stop_reason|status)"\s*:\s*"([a-z_]+)"')
_BY_ITSELF = frozenset(
    {b"stop", b"tool_calls", b"function_call", b"end_turn", b"stop_sequence", b"tool_use", b"completed"}
)
_AT_A_LIMIT = frozenset({b"length", b"max_tokens", b"incomplete"})


def ending_of(answer: bytes) -> str:
    """What the answer, whole or streamed, says of its end; a limit counts, wherever it is told."""
    reasons = [reason for reason in _REASON.findall(answer) if reason in _BY_ITSELF or reason in _AT_A_LIMIT]
    if not reasons:
        return OTHERWISE
    return LENGTH if _AT_A_LIMIT.intersection(reasons) else STOP


log = logging.getLogger(__name__)
_WATCHED_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_MOST_WAITING = 256
_MOST_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class _SampledAnswer:
    """One answer as the client got it."""

    version: Version
    day: int
    body: bytes
    is_stream: bool
    usage: Usage


class AnswerSampler:
    """Chooses answers (`wants`), takes them when they have ended, and counts them in a thread."""

    def __init__(self, counts: AnswerProfileStore, metrics: CollectorRegistry, *, percent: float) -> None:
        self._counts = counts
        self._share = percent / 100
        self._baselines: dict[str, Baseline | None] = {}
        self._waiting: deque[_SampledAnswer] = deque()
        self._pending: Counter[Key] = Counter()
        self._one_flush = threading.Lock()
        self._watched = Metric(
            "turntable_watched_answers",
            "Sampled answers by outcome: counted, or dropped because there were too many or too long.",
            ("model", "outcome"),
            registry=metrics,
        )

    def baseline(self, version: Version) -> Baseline | None:
        """What a version learnt from, read once."""
        if version.digest not in self._baselines:
            self._baselines[version.digest] = Baseline.read(version.manifest.training)
        return self._baselines[version.digest]

    def wants(self, target: Target) -> bool:
        """Whether this request is one of the sample."""
        if target.version is None or target.track is Track.SHADOW or not self._share:
            return False
        return random.random() < self._share and self.baseline(target.version) is not None  # noqa: S311 - a sample

    def ended(self, call: RequestContext, entry: Entry) -> None:
        """Take an answer of the sample that is complete; those of several choices are not one answer."""
        version = call.target.version
        if not call.is_sampled or version is None or entry.finish is not Finish.COMPLETED or entry.status != 200:
            return
        if call.api.path not in _WATCHED_PATHS or call.request.document.get("n") not in (None, 1):
            return
        body = b"".join(call.captured or ())
        if len(self._waiting) >= _MOST_WAITING or len(body) > _MOST_BYTES:
            self._watched.labels(version.name, "dropped").inc()
            return
        self._waiting.append(_SampledAnswer(version, today(), body, call.request.stream, entry.usage))

    def flush(self) -> None:
        """Count what waits and add it to the database; when that is away, it is added later. Blocks."""
        with self._one_flush:
            heard = [self._waiting.popleft() for _ in range(len(self._waiting))]
            self._pending += self._look(heard)
            try:
                self._counts.add(self._pending)
            except SQLAlchemyError:
                log.warning("counts of watched answers wait for the database", exc_info=True)
            else:
                self._pending = Counter()

    def _look(self, heard: Sequence[_SampledAnswer]) -> Counter[Key]:
        found: Counter[Key] = Counter()
        for one in heard:
            baseline, version = self.baseline(one.version), one.version
            assert baseline is not None, "only versions with a baseline are watched"
            text = text_of(one.body, is_stream=one.is_stream)
            answer = ProfiledAnswer(text, one.usage.prompt_tokens, one.usage.completion_tokens, ending_of(one.body))
            for measure, bucket in answer.buckets(baseline.shape):
                found[version.name, version.digest, one.day, measure, bucket] += 1
            self._watched.labels(version.name, "counted").inc()
        return found
