"""Metrics derived from raw records.

Records are taken in one by one, so that memory does not grow with their number.

- TTFT: from the intended send time to the first chunk with text.
- ITL: gaps between consecutive chunks with text, all requests pooled. A chunk is not a token: a server may put
  several tokens in one chunk, and chunks read together have a gap of 0.
- TPOT: per request, time from the first to the last chunk with text over the tokens after the first.
- E2E: from the intended send time to the end of the answer.
- Send delay: from the intended to the real send time: the client's own lateness (lag) and its queueing for room
  under a limit of concurrency.
- Good: answered, and within every limit of the SLO by its own TTFT, TPOT, E2E and 99th percentile of its own gaps.

Latencies are those of the answered requests; failed ones are counted beside them, and as bad. Tokens are what the
server's usage says, and the chunks counted here where it says nothing.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from loadtest.records import INTERRUPTED, RequestRecord
from loadtest.statistics import Distribution as Distribution
from loadtest.statistics import Samples

METRICS = ("ttft", "itl", "tpot", "e2e", "send_delay", "lag", "queueing")


@dataclass(frozen=True, slots=True)
class Slo:
    """Latency limits of a good request (goodput); None is no limit, and without limits every answer is good."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    def met_by(self, record: RequestRecord) -> bool:
        """Whether a request was answered within all limits."""
        if record.error is not None:
            return False
        return (
            (self.ttft_ms is None or (bool(record.chunk_s) and _within(ttft_ms(record), self.ttft_ms)))
            and (self.itl_ms is None or _within(own_p99_gap_ms(record), self.itl_ms))
            and _within(tpot_ms(record), self.tpot_ms)
            and _within(e2e_ms(record), self.e2e_ms)
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """One row of the report: all requests, or those of one model."""

    requests: int
    succeeded: int
    failed: int
    unfinished: int
    """Still running when the test was interrupted."""
    errors: dict[str, int]
    good: int
    """Answered within the SLO."""
    requests_per_s: float
    """Answered requests over the length of the whole test."""
    good_per_s: float
    output_tokens_per_s: float
    prompt_tokens: int
    cached_tokens: int | None
    """Of the prompt tokens, those that came from the server's prefix cache; None when it never said."""
    completion_tokens: int
    counted_chunks: int
    usage_missing: int
    """Answered requests without a usage from the server."""
    usage_below_chunks: int
    """Answered requests whose usage claims fewer tokens than chunks with text arrived: an impossible count."""
    usage_above_chunks: int
    """Answered requests with more tokens than chunks: tokens that shared a chunk, or a wrong count."""
    ttft: Distribution | None
    itl: Distribution | None
    tpot: Distribution | None
    e2e: Distribution | None
    send_delay: Distribution | None
    lag: Distribution | None
    """Of all requests sent: the client's own lateness."""
    queueing: Distribution | None
    """Of all requests sent: waiting in the client for room under a limit of concurrency."""


def ttft_ms(record: RequestRecord) -> float | None:
    """Return the time to first token of one answer; None when no text came."""
    return (record.chunk_s[0] - record.intended_s) * 1000 if record.chunk_s else None


def itl_ms(record: RequestRecord) -> list[float]:
    """Return the gaps between the chunks of one answer."""
    times_s = record.chunk_s
    if times_s and times_s[0] == times_s[-1]:
        return [0.0] * (len(times_s) - 1)
    return [(later - earlier) * 1000 for earlier, later in pairwise(times_s)]


def own_p99_gap_ms(record: RequestRecord) -> float | None:
    """Return the 99th percentile of the gaps of one answer; None without gaps."""
    gaps_ms = sorted(itl_ms(record))
    return gaps_ms[math.ceil(0.99 * len(gaps_ms)) - 1] if gaps_ms else None


def tpot_ms(record: RequestRecord) -> float | None:
    """Return the time per output token after the first of one answer; None below two tokens or chunks."""
    tokens = output_tokens(record)
    if tokens < 2 or len(record.chunk_s) < 2:
        return None
    return (record.chunk_s[-1] - record.chunk_s[0]) * 1000 / (tokens - 1)


def e2e_ms(record: RequestRecord) -> float:
    """Return the end-to-end latency of one answer."""
    return (record.end_s - record.intended_s) * 1000


def counted_chunks(record: RequestRecord) -> int:
    """Return the number of chunks that stand for at least one token each."""
    return len(record.chunk_s) + record.empty_chunks


def output_tokens(record: RequestRecord) -> int:
    """Return the tokens of one answer: the server's usage, or the chunks when it gave none."""
    return counted_chunks(record) if record.completion_tokens is None else record.completion_tokens


def duration_s(records: Iterable[RequestRecord]) -> float:
    """From the first intended send time to the last end; 0 without records."""
    return MetricAccumulator.of(records).duration_s


@dataclass(slots=True)
class MetricAccumulator:
    """Running sums over the records of one model, or of all; mergeable across processes."""

    slo: Slo = field(default_factory=Slo)
    requests: int = 0
    succeeded: int = 0
    unfinished: int = 0
    good: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cached_told: int = 0
    """Answers that said how much of their prompt was cached."""
    completion_tokens: int = 0
    chunks: int = 0
    usage_missing: int = 0
    usage_below_chunks: int = 0
    usage_above_chunks: int = 0
    first_s: float = math.inf
    last_intended_s: float = -math.inf
    last_s: float = -math.inf
    samples: dict[str, Samples] = field(default_factory=lambda: {name: Samples() for name in METRICS})

    @classmethod
    def of(cls, records: Iterable[RequestRecord], slo: Slo | None = None) -> "MetricAccumulator":
        """Return the sums of these records."""
        accumulator = cls(slo or Slo())
        for record in records:
            accumulator.add(record)
        return accumulator

    @property
    def duration_s(self) -> float:
        """From the first intended send time to the last end; 0 without records."""
        return self.last_s - self.first_s if self.requests else 0.0

    @property
    def offered_per_s(self) -> float | None:
        """Intended requests per second; None below two of them."""
        over_s = self.last_intended_s - self.first_s
        return (self.requests - 1) / over_s if self.requests > 1 and over_s > 0 else None

    def add(self, record: RequestRecord) -> None:
        """Add one complete record."""
        self.requests += 1
        self.first_s = min(self.first_s, record.intended_s)
        self.last_intended_s = max(self.last_intended_s, record.intended_s)
        self.last_s = max(self.last_s, record.end_s)
        delay_ms, lag_ms = (record.sent_s - record.intended_s) * 1000, record.lag_s * 1000
        self.samples["lag"].add((lag_ms,))
        self.samples["queueing"].add((max(0.0, delay_ms - lag_ms),))
        if record.error is None:
            self._add_answer(record, delay_ms)
        elif record.error == INTERRUPTED:
            self.unfinished += 1
        else:
            self.errors[record.error] += 1

    def _add_answer(self, record: RequestRecord, delay_ms: float) -> None:
        self.succeeded += 1
        self.good += self.slo.met_by(record)
        chunks = counted_chunks(record)
        self.chunks += chunks
        self.prompt_tokens += record.prompt_tokens or 0
        if record.cached_tokens is not None:
            self.cached_tokens += record.cached_tokens
            self.cached_told += 1
        self.completion_tokens += output_tokens(record)
        if record.completion_tokens is None:
            self.usage_missing += 1
        else:
            self.usage_below_chunks += record.completion_tokens < len(record.chunk_s)
            self.usage_above_chunks += record.completion_tokens > chunks
        samples = self.samples
        samples["itl"].add(itl_ms(record))
        samples["e2e"].add((e2e_ms(record),))
        samples["send_delay"].add((delay_ms,))
        if (first_ms := ttft_ms(record)) is not None:
            samples["ttft"].add((first_ms,))
        if (per_token_ms := tpot_ms(record)) is not None:
            samples["tpot"].add((per_token_ms,))

    def merge(self, other: "MetricAccumulator") -> None:
        """Merge the sums of another process."""
        for name in ("requests", "succeeded", "unfinished", "good", "prompt_tokens", "completion_tokens", "chunks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("cached_tokens", "cached_told", "usage_missing", "usage_below_chunks", "usage_above_chunks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors.update(other.errors)
        self.first_s, self.last_s = min(self.first_s, other.first_s), max(self.last_s, other.last_s)
        self.last_intended_s = max(self.last_intended_s, other.last_intended_s)
        for name, samples in self.samples.items():
            samples.merge(other.samples[name])

    def summary(self, over_s: float) -> Summary:
        """Return the metrics, with rates over `over_s` seconds."""

        def per_s(count: int) -> float:
            return count / over_s if over_s > 0 else 0.0

        return Summary(
            requests=self.requests,
            succeeded=self.succeeded,
            failed=self.errors.total(),
            unfinished=self.unfinished,
            errors=dict(self.errors.most_common()),
            good=self.good,
            requests_per_s=per_s(self.succeeded),
            good_per_s=per_s(self.good),
            output_tokens_per_s=per_s(self.completion_tokens),
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens if self.cached_told else None,
            completion_tokens=self.completion_tokens,
            counted_chunks=self.chunks,
            usage_missing=self.usage_missing,
            usage_below_chunks=self.usage_below_chunks,
            usage_above_chunks=self.usage_above_chunks,
            **{name: samples.distribution() for name, samples in self.samples.items()},
        )


def summarise(records: Iterable[RequestRecord], over_s: float, slo: Slo | None = None) -> Summary:
    """Summarise records, with rates over `over_s` seconds."""
    return MetricAccumulator.of(records, slo).summary(over_s)


def jain(shares: Iterable[float]) -> float | None:
    """Return Jain's fairness index: 1 when all are equal, 1/n when one has everything; None without anything."""
    values = [float(share) for share in shares]
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


def _within(value_ms: float | None, limit_ms: float | None) -> bool:
    return limit_ms is None or value_ms is None or value_ms <= limit_ms
