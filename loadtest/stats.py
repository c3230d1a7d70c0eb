"""Metrics derived from raw records.

- TTFT: from the intended send time to the first chunk with text.
- ITL: gaps between consecutive chunks with text, all requests pooled. A chunk is not a token: a server may put
  several tokens in one chunk, and chunks read together have a gap of 0.
- TPOT: per request, time from the first to the last chunk with text over the tokens after the first.
- E2E: from the intended send time to the end of the answer.
- Send delay: from the intended to the real send time, the client's own lateness.

Latencies are those of the answered requests; failed ones are counted beside them. Tokens are what the server's usage
says, and the chunks counted here where it says nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from loadtest.client import INTERRUPTED, RequestRecord


@dataclass(frozen=True, slots=True)
class Distribution:
    """Milliseconds of one metric; percentiles interpolate linearly between samples."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Self | None:
        """The distribution of the samples; None when there are none."""
        if not samples_ms:
            return None
        p50, p90, p99 = np.percentile(samples_ms, (50, 90, 99)).tolist()
        return cls(len(samples_ms), float(np.mean(samples_ms)), p50, p90, p99, max(samples_ms))


@dataclass(frozen=True, slots=True)
class Summary:
    """One row of the report: all requests, or those of one model."""

    requests: int
    succeeded: int
    failed: int
    unfinished: int
    """Still running when the test was interrupted."""
    errors: dict[str, int]
    requests_per_s: float
    """Answered requests over the length of the whole test."""
    output_tokens_per_s: float
    prompt_tokens: int
    completion_tokens: int
    counted_chunks: int
    usage_missing: int
    """Answered requests without a usage from the server."""
    usage_below_chunks: int
    """Answered requests whose usage claims fewer tokens than chunks arrived: no honest count can."""
    usage_above_chunks: int
    """Answered requests with more tokens than chunks: tokens that shared a chunk, or a wrong count."""
    ttft: Distribution | None
    itl: Distribution | None
    tpot: Distribution | None
    e2e: Distribution | None
    send_delay: Distribution | None


def ttft_ms(record: RequestRecord) -> float | None:
    """Time to first token of one answer; None when no text came."""
    return (record.chunk_s[0] - record.intended_s) * 1000 if record.chunk_s else None


def itl_ms(record: RequestRecord) -> list[float]:
    """The gaps between the chunks of one answer."""
    return [(later - earlier) * 1000 for earlier, later in zip(record.chunk_s, record.chunk_s[1:], strict=False)]


def tpot_ms(record: RequestRecord) -> float | None:
    """Time per output token after the first of one answer; None below two tokens or chunks."""
    tokens = output_tokens(record)
    if tokens < 2 or len(record.chunk_s) < 2:
        return None
    return (record.chunk_s[-1] - record.chunk_s[0]) * 1000 / (tokens - 1)


def e2e_ms(record: RequestRecord) -> float:
    """Whole latency of one answer."""
    return (record.end_s - record.intended_s) * 1000


def counted_chunks(record: RequestRecord) -> int:
    """Chunks that stand for at least one token each."""
    return len(record.chunk_s) + record.empty_chunks


def output_tokens(record: RequestRecord) -> int:
    """Tokens of one answer: the server's count, or the chunks when it gave none."""
    return counted_chunks(record) if record.completion_tokens is None else record.completion_tokens


def duration_s(records: Iterable[RequestRecord]) -> float:
    """From the first intended send time to the last end; 0 without records."""
    spans = [(record.intended_s, record.end_s) for record in records]
    return max(end for _, end in spans) - min(start for start, _ in spans) if spans else 0.0


def summarise(records: Sequence[RequestRecord], over_s: float) -> Summary:
    """The metrics of these records, with rates over `over_s` seconds."""
    answered = [record for record in records if record.error is None]
    errors = Counter(record.error for record in records if record.error not in (None, INTERRUPTED))
    surplus = [
        record.completion_tokens - counted_chunks(record) for record in answered if record.completion_tokens is not None
    ]
    completion_tokens = sum(output_tokens(record) for record in answered)
    return Summary(
        requests=len(records),
        succeeded=len(answered),
        failed=errors.total(),
        unfinished=len(records) - len(answered) - errors.total(),
        errors={str(kind): count for kind, count in errors.most_common()},
        requests_per_s=len(answered) / over_s if over_s else 0.0,
        output_tokens_per_s=completion_tokens / over_s if over_s else 0.0,
        prompt_tokens=sum(record.prompt_tokens or 0 for record in answered),
        completion_tokens=completion_tokens,
        counted_chunks=sum(counted_chunks(record) for record in answered),
        usage_missing=len(answered) - len(surplus),
        usage_below_chunks=sum(tokens < 0 for tokens in surplus),
        usage_above_chunks=sum(tokens > 0 for tokens in surplus),
        ttft=Distribution.of([ms for record in answered if (ms := ttft_ms(record)) is not None]),
        itl=Distribution.of([ms for record in answered for ms in itl_ms(record)]),
        tpot=Distribution.of([ms for record in answered if (ms := tpot_ms(record)) is not None]),
        e2e=Distribution.of([e2e_ms(record) for record in answered]),
        send_delay=Distribution.of([(record.sent_s - record.intended_s) * 1000 for record in answered]),
    )
