"""The answer sampler: measures a sample of live answers after they were sent, and keeps counts only, no text.

Only versions whose training left a baseline are sampled, and at most `watch_percent` of their answers. Answers that
arrive faster than they can be measured are dropped and counted as such.
"""

import logging
import random
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric
from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, String, Table, delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from adapters import Version
from adapters.answer_profile import LENGTH, STOP, Baseline, ProfiledAnswer
from adapters.answer_profile import OTHER as OTHERWISE
from gateway.core import RequestContext, Target, Track, Usage
from gateway.database import upsert
from gateway.metering import Finish, LedgerEntry
from gateway.releases.answer_text import text_of

log = logging.getLogger(__name__)
# How many answers of a version fell into a bucket of a measure on a day (UTC, days since the epoch).
watched_answers = Table(
    "watched_answers",
    MetaData(),
    Column("adapter", String(64), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("measure", String(96), primary_key=True),
    Column("bucket", String(96), primary_key=True),
    Column("answers", BigInteger, nullable=False),
)
CountKey = tuple[str, str, int, str, str]
"""Adapter, digest, day, measure, bucket."""
_KEY = ("adapter", "digest", "day", "measure", "bucket")
_KEPT_DAYS = 400
_SAMPLED_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_MOST_WAITING = 256
_MOST_BYTES = 256 << 10

# Outside of JSON strings every quote is bare, inside it is escaped: text that a model wrote cannot match.
_REASON = re.compile(rb'(?<!\\)"(?:finish_reason|stop_reason|status)"\s*:\s*"([a-z_]+)"')
_STOPPED = frozenset(
    {b"stop", b"tool_calls", b"function_call", b"end_turn", b"stop_sequence", b"tool_use", b"completed"}
)
_AT_LIMIT = frozenset({b"length", b"max_tokens", b"incomplete"})


@dataclass(frozen=True, slots=True)
class _SampledAnswer:
    """One answer as the client got it."""

    version: Version
    day: int
    body: bytes
    is_stream: bool
    usage: Usage


class AnswerProfileStore:
    """The table of answer counts, to which several gateways may add; methods block."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def add(self, counts: Mapping[CountKey, int]) -> None:
        """Add counts to those stored."""
        if not counts:
            return
        # In one order everywhere, or two gateways could wait for each other's rows.
        rows = [{**dict(zip(_KEY, key, strict=True)), "answers": number} for key, number in sorted(counts.items())]
        with self._database.begin() as connection:
            connection.execute(upsert(connection.dialect.name, watched_answers, add=["answers"]), rows)

    def read(self, adapter: str, digest: str, since_day: int) -> dict[str, Counter[str]]:
        """Return the buckets of every measure of a version since a day, inclusive."""
        table = watched_answers.c
        query = (
            select(table.measure, table.bucket, func.sum(table.answers).label("answers"))
            .where(table.adapter == adapter, table.digest == digest, table.day >= since_day)
            .group_by(table.measure, table.bucket)
        )
        found: dict[str, Counter[str]] = {}
        with self._database.connect() as connection:
            for row in connection.execute(query):
                found.setdefault(row.measure, Counter())[row.bucket] = int(row.answers)
        return found

    def prune(self) -> None:
        """Delete the counts of days more than `_KEPT_DAYS` ago."""
        with self._database.begin() as connection:
            connection.execute(delete(watched_answers).where(watched_answers.c.day < today() - _KEPT_DAYS))


class AnswerSampler:
    """Chooses requests (`should_sample`), collects their answers at their end, and measures them in a thread."""

    def __init__(self, profiles: AnswerProfileStore, metrics: CollectorRegistry, *, percent: float) -> None:
        self._profiles = profiles
        self._share = percent / 100
        self._baselines: dict[str, Baseline | None] = {}
        self._waiting: deque[_SampledAnswer] = deque()
        self._pending: Counter[CountKey] = Counter()
        self._flushing = threading.Lock()
        self._outcomes = Metric(
            "turntable_sampled_answers",
            "Sampled answers by outcome: counted, or dropped because there were too many or too long.",
            ("model", "outcome"),
            registry=metrics,
        )

    def baseline(self, version: Version) -> Baseline | None:
        """Return the baseline of a version's training data, read once; None when its training left none."""
        if version.digest not in self._baselines:
            self._baselines[version.digest] = Baseline.read(version.manifest.training)
        return self._baselines[version.digest]

    def should_sample(self, target: Target) -> bool:
        """Decide at random whether the answer to this request belongs to the sample."""
        if target.version is None or target.track is Track.SHADOW or not self._share:
            return False
        return random.random() < self._share and self.baseline(target.version) is not None  # noqa: S311 - a sample

    def ended(self, context: RequestContext, entry: LedgerEntry) -> None:
        """Collect a complete sampled answer; an answer of several choices is not one answer, and is left out."""
        version = context.target.version
        if not context.is_sampled or version is None or entry.finish is not Finish.COMPLETED or entry.status != 200:
            return
        if context.api.path not in _SAMPLED_PATHS or context.request.document.get("n") not in (None, 1):
            return
        body = b"".join(context.captured or ())
        if len(self._waiting) >= _MOST_WAITING or len(body) > _MOST_BYTES:
            self._outcomes.labels(version.name, "dropped").inc()
            return
        self._waiting.append(_SampledAnswer(version, today(), body, context.request.stream, entry.usage))

    def flush(self) -> None:
        """Measure the collected answers and store the counts, or keep them until the database is back. Blocks."""
        with self._flushing:
            answers = [self._waiting.popleft() for _ in range(len(self._waiting))]
            self._pending += self._measure(answers)
            try:
                self._profiles.add(self._pending)
            except SQLAlchemyError:
                log.warning("counts of sampled answers wait for the database", exc_info=True)
            else:
                self._pending = Counter()

    def _measure(self, answers: Sequence[_SampledAnswer]) -> Counter[CountKey]:
        found: Counter[CountKey] = Counter()
        for sampled in answers:
            baseline, version = self.baseline(sampled.version), sampled.version
            assert baseline is not None, "only versions with a baseline are sampled"
            text = text_of(sampled.body, is_stream=sampled.is_stream)
            answer = ProfiledAnswer(
                text, sampled.usage.prompt_tokens, sampled.usage.completion_tokens, ending_of(sampled.body)
            )
            for measure, bucket in answer.buckets(baseline.shape):
                found[version.name, version.digest, sampled.day, measure, bucket] += 1
            self._outcomes.labels(version.name, "counted").inc()
        return found


def ending_of(answer: bytes) -> str:
    """Classify the end of an answer of any API, whole or streamed: stop, length limit, other; a limit prevails."""
    reasons = [reason for reason in _REASON.findall(answer) if reason in _STOPPED or reason in _AT_LIMIT]
    if not reasons:
        return OTHERWISE
    return LENGTH if _AT_LIMIT.intersection(reasons) else STOP


def today() -> int:
    """Return the UTC day, counted from the epoch."""
    return int(time.time()) // 86_400
