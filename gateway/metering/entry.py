"""The ledger entry of one request while it runs, and the journal lines it leaves.

An entry is opened before the engine sees the request, may note progress, and is settled once, however the request ends.
Each line holds the whole row, so that order and repetition of lines do not matter.
"""

import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import orjson

from gateway.clock import now_us
from gateway.core import Usage, UsageSource

OPENED: Final = b"o"
PROGRESS: Final = b"p"
SETTLED: Final = b"s"
CHARGED: Final = b"c"
"""Settled, and the cost is charged to a key and a tenant."""

OWN_KEY = "turntable"
"""Key and tenant of requests that the gateway itself sends to an engine, such as probes."""
OWN_LABEL = "turntable (own)"
"""Adapter name under which the gateway's own requests are summed, whatever model they were for."""
SHADOW_KEY = "shadow"
"""Key and tenant of shadow requests: the engine worked on them, no client asked for them."""

COLUMNS = (
    "request_id",
    "opened_us",
    "tenant",
    "key_id",
    "model",
    "adapter",
    "digest",
    "stream",
    "endpoint",
    "client_request_id",
    "state",
    "settled_us",
    "status",
    "finish",
    "evidence",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "ttft_us",
    "engine",
    "cost_nano_usd",
    "attempt",
    "gateway",
    "gateway_run",
    "latency_us",
    "price_version",
    "engine_run",
    "choices",
    "error_code",
    "error_message",
    "queue_us",
)
"""Columns of `usage_ledger` in the order of a journal line's values; lines of older versions end earlier."""


class Finish(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    CLIENT_ABORT = "client_abort"
    SHUTDOWN = "shutdown"
    """The gateway was stopped before the answer was complete."""
    REFUSED = "refused"
    ENGINE_ERROR = "engine_error"
    UNSEEN = "unseen"
    """No engine saw this attempt; the next attempt of the same request has a row of its own."""


@dataclass(slots=True)
class LedgerEntry:
    """The ledger row of a running request. Times are microseconds since the epoch."""

    request_id: str
    tenant: str
    key_id: str
    model: str
    adapter: str | None
    digest: str | None
    stream: bool
    endpoint: str
    client_request_id: str | None = None
    engine: str | None = None
    opened_us: int = field(default_factory=now_us)
    sent_s: float = 0.0
    """When the request was sent to the engine, on `time.perf_counter`."""
    first_byte_us: int | None = None
    chunks: int = 0
    status: int = 200
    finish: Finish = Finish.COMPLETED
    usage: Usage = field(default_factory=Usage)
    evidence: UsageSource = UsageSource.NONE
    """Source of `usage`."""
    cost_nano_usd: int | None = None
    attempt: int = 1
    """Number of the engine that the request was sent to; each attempt has a row."""
    gateway: str = ""
    gateway_run: str = ""
    price_version: str | None = None
    engine_run: str | None = None
    """Run of the engine, whose counters began at zero with it."""
    choices: int = 1
    """How often the engine counts each prompt token: once per choice that the client asked for."""
    error_code: str | None = None
    error_message: str | None = None
    """The error as the client got it."""
    queue_us: int | None = None
    """Time spent waiting for a slot before the entry was opened."""
    is_charged: bool = False
    """Whether the cost is charged to a key and a tenant."""
    is_settled: bool = False

    def mark_sent(self) -> None:
        """Record that the request is sent to the engine now."""
        self.sent_s = time.perf_counter()

    def mark_first_byte(self) -> None:
        """Record the first byte of the answer; later calls change nothing."""
        if self.first_byte_us is None:
            self.first_byte_us = now_us()

    @property
    def ttft_us(self) -> int | None:
        """Time from opening to the first byte of the answer."""
        return None if self.first_byte_us is None else self.first_byte_us - self.opened_us

    def opened_line(self) -> bytes:
        """Return the journal line of an entry that the engine has not seen yet."""
        return OPENED + self._row("open", None, None, None, None)

    def progress_line(self) -> bytes:
        """Return the journal line with the tokens of a running request so far."""
        return PROGRESS + self._row("open", None, None, None, self.evidence)

    def settled_line(self) -> bytes:
        """Return the journal line of an ended request, complete without any earlier line."""
        return (CHARGED if self.is_charged else SETTLED) + self._row(
            "settled", now_us(), self.status, self.finish, self.evidence
        )

    def unseen_line(self) -> bytes:
        """Return the settled line of an attempt that no engine saw."""
        attempt = replace(
            self, engine=None, engine_run=None, status=502, finish=Finish.UNSEEN, evidence=UsageSource.EXACT
        )
        attempt.is_charged = False
        return attempt.settled_line()

    def _row(
        self, state: str, settled_us: int | None, status: int | None, finish: str | None, evidence: str | None
    ) -> bytes:
        """Encode the values of `COLUMNS` as a JSON array and a line feed."""
        usage = self.usage
        latency_us = None if settled_us is None else settled_us - self.opened_us
        return orjson.dumps(
            (
                self.request_id,
                self.opened_us,
                self.tenant,
                self.key_id,
                self.model,
                self.adapter,
                self.digest,
                self.stream,
                self.endpoint,
                self.client_request_id,
                state,
                settled_us,
                status,
                finish,
                evidence,
                usage.prompt_tokens,
                usage.cached_tokens,
                usage.completion_tokens,
                self.ttft_us,
                self.engine,
                self.cost_nano_usd,
                self.attempt,
                self.gateway,
                self.gateway_run,
                latency_us,
                self.price_version,
                self.engine_run,
                self.choices,
                self.error_code,
                self.error_message,
                self.queue_us,
            ),
            option=orjson.OPT_APPEND_NEWLINE,
        )
