"""The ledger's row of one request while the request runs, and the lines it leaves in the journal."""

import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import orjson

from gateway.core import Usage, UsageSource

OPENED: Final = b"o"
PROGRESS: Final = b"p"
SETTLED: Final = b"s"
CHARGED: Final = b"c"
"""Settled as well, and what it cost is booked on its key and its tenant."""


OWN_KEY = "turntable"
"""Key and tenant of what the gateway itself asks of an engine: on the ledger, so that its sums are the engine's."""

OWN_LABEL = "turntable (own)"
"""What the gateway's own requests are summed up under, whatever model they were for."""


SHADOW_KEY = "shadow"
"""Key and tenant of the rows of mirrored requests: the engine worked on them, no client asked for them."""


class Finish(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    CLIENT_ABORT = "client_abort"
    REFUSED = "refused"
    ENGINE_ERROR = "engine_error"
    UNSEEN = "unseen"
    """No engine saw this attempt; the next one of the same request has a row of its own."""


def now_us() -> int:
    """Microseconds since the epoch: the ledger's only unit of time."""
    return time.time_ns() // 1_000


@dataclass(slots=True)
class Entry:
    """The row of one request while it runs. Times are microseconds since the epoch."""

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
    first_byte_us: int | None = None
    chunks: int = 0
    status: int = 200
    finish: Finish = Finish.COMPLETED
    usage: Usage = field(default_factory=Usage)
    evidence: UsageSource = UsageSource.NONE
    cost_nano_usd: int | None = None
    attempt: int = 1
    """Counts the engines that the request was sent to; each attempt is a row."""
    gateway: str = ""
    gateway_run: str = ""
    price_version: str | None = None
    engine_run: str | None = None
    """Which run of the engine answered: its counters began at zero with it."""
    choices: int = 1
    """How often the engine counts each prompt token: once for each choice that the client asked for."""
    error_code: str | None = None
    error_message: str | None = None
    """Why it failed, as the client was told."""
    queue_us: int | None = None
    """How long it waited for its turn before it was opened."""
    is_charged: bool = False
    """Whether a key and a tenant pay for it."""
    is_settled: bool = False

    def mark_sent(self) -> None:
        """Note the moment in which the engine gets the request, on `time.perf_counter`."""
        self.sent_s = time.perf_counter()

    def mark_first_byte(self) -> None:
        """Note the moment of the first byte of the answer, once."""
        if self.first_byte_us is None:
            self.first_byte_us = now_us()

    @property
    def ttft_us(self) -> int | None:
        """Time to the first byte of the answer, from the moment the request was understood."""
        return None if self.first_byte_us is None else self.first_byte_us - self.opened_us

    def opened_line(self) -> bytes:
        """The row as it is before the engine sees the request, for the journal."""
        return OPENED + self._row("open", None, None, None, None)

    def progress_line(self) -> bytes:
        """The tokens so far of a request that still runs, for the journal."""
        return PROGRESS + self._row("open", None, None, None, self.evidence)

    def settled_line(self) -> bytes:
        """The row as the request left it, for the journal: whole, so that it needs no other line."""
        return (CHARGED if self.is_charged else SETTLED) + self._row(
            "settled", now_us(), self.status, self.finish, self.evidence
        )

    def unseen_line(self) -> bytes:
        """The row of an attempt that no engine saw, for the journal."""
        attempt = replace(
            self, engine=None, engine_run=None, status=502, finish=Finish.UNSEEN, evidence=UsageSource.EXACT
        )
        attempt.is_charged = False
        return attempt.settled_line()

    def _row(
        self, state: str, settled_us: int | None, status: int | None, finish: str | None, evidence: str | None
    ) -> bytes:
        """The values of `table.COLUMNS`."""
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
