"""Raw record of one request: times, tokens and error, in memory while it runs and as one JSON line on disk."""

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Self

import orjson

INTERRUPTED = "interrupted"
"""The error of a request that was still running when the test was stopped: neither answered nor failed."""


@dataclass(slots=True)
class RequestRecord:
    """Record of one request; times are seconds from the start of the test."""

    index: int
    model: str
    intended_s: float
    """Intended send time; latencies are counted from here."""
    sent_s: float
    end_s: float = 0.0
    status: int | None = None
    chunk_s: list[float] = field(default_factory=list)
    """Arrival of every chunk with text; chunks that arrived in one read share a time."""
    empty_chunks: int = 0
    """Chunks between others that stand for a token without visible text."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """From the server's usage; None without one."""
    cached_tokens: int | None = None
    """Prompt tokens from the server's prefix cache; None when its usage does not say."""
    finish_reason: str | None = None
    error: str | None = None
    """Kind of failure: `connection`, `timeout`, `truncated`, `malformed`, `stream_error`, `no_tokens`,
    `no_finish_reason`, `http_<status>`.
    """
    message: str | None = None
    lag_s: float = 0.0
    """The client's own lateness: from the intended send time until this program sent it or queued it."""
    cold: bool = False
    """Sent before the model had given a first token in this test, its warm-up included."""
    asked_tokens: int = 0
    """The `max_tokens` of the request."""

    def as_line(self) -> bytes:
        """Return one JSON line; `chunk_s` becomes `reads`: pairs of time and number of chunks in that read."""
        row = {name: getattr(self, name) for name in _KEPT}
        row["reads"] = [(time_s, sum(1 for _ in chunks)) for time_s, chunks in groupby(self.chunk_s)]
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read a line of `as_line`; raises ValueError, KeyError or TypeError for anything else."""
        row: dict[str, Any] = orjson.loads(line)
        reads = row.pop("reads")
        return cls(**row, chunk_s=[time_s for time_s, chunks in reads for _ in range(chunks)])


_KEPT = tuple(name for name in RequestRecord.__slots__ if name != "chunk_s")
