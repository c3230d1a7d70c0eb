"""The run of one request: what it holds of the gateway's services, its time limits, and its response."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.core import RequestContext
from gateway.costs.request_price import WorkPrice
from gateway.engines.engine import PinnedEngine
from gateway.errors import EngineTimeoutError, GatewayError
from gateway.inference.formats import Names, StreamRewriter
from gateway.metering import LedgerEntry
from gateway.quota.manager import QuotaGrant
from gateway.server.request_body import ClientGoneError

_UNPRICED = WorkPrice()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds an engine's answer may take: until a stream's first byte, and in all."""

    first_byte_s: float
    total_s: float


class Client(Protocol):
    """Where a response goes; see `gateway.inference.endpoint.HttpClient`."""

    def watch(self, gone: Callable[[], object], *, is_stream: bool) -> None:
        """Call `gone` when the client leaves, until `unwatch`."""
        ...

    def unwatch(self) -> None:
        """End what `watch` began."""
        ...

    async def send_whole(self, answer: bytes) -> None:
        """Send the whole response."""
        ...

    async def send_events(self, events: bytes) -> None:
        """Send events of a stream."""
        ...

    def write_events(self, events: bytes) -> bool:
        """Write events of a stream at once; False when `drained` has to be awaited before more."""
        ...

    async def drained(self) -> None:
        """Return once the client has read enough to be sent more."""
        ...

    async def send_end(self) -> None:
        """End a stream."""
        ...


class NoClient:
    """The client of a shadow request: its answer is captured, not sent."""

    def watch(self, gone: Callable[[], object], *, is_stream: bool) -> None:
        """Do nothing: there is no client that could leave."""

    def unwatch(self) -> None:
        """Do nothing."""

    async def send_whole(self, answer: bytes) -> None:
        """Drop the response."""

    async def send_events(self, events: bytes) -> None:
        """Drop events."""

    def write_events(self, events: bytes) -> bool:
        """Drop events."""
        return True

    async def drained(self) -> None:
        """Return at once."""

    async def send_end(self) -> None:
        """Drop the end."""


class RequestRun:
    """What one running request holds; `InferencePipeline` takes it step by step and gives it back in one place.

    A time limit and a client that leaves both cancel the request's task. `reason_of_end` turns that `CancelledError`
    into the error that it stands for.
    """

    __slots__ = (
        "_deadline",
        "_is_gone",
        "_is_late",
        "_limits",
        "_loop",
        "_started_s",
        "_task",
        "_waits_for_first_byte",
        "client",
        "client_is_full",
        "context",
        "entry",
        "grant",
        "has_slot",
        "noted_s",
        "pinned",
        "price",
        "rewriter",
        "waited_s",
    )

    def __init__(self, context: RequestContext, client: Client, limits: Timeouts) -> None:
        task = asyncio.current_task()
        assert task is not None, "requests run in tasks"
        self.context = context
        self.client = client
        self.client_is_full = False
        self.price = _UNPRICED
        """The price of work for the whole request, whatever becomes of prices meanwhile."""
        self.grant: QuotaGrant | None = None
        self.has_slot = False
        self.waited_s = 0.0
        self.entry: LedgerEntry | None = None
        self.noted_s = 0.0
        self.pinned: PinnedEngine | None = None
        self.rewriter: StreamRewriter | None = None
        self._task: asyncio.Task[Any] = task
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._started_s = 0.0
        self._waits_for_first_byte = False
        self._is_late = False
        self._is_gone = False

    @property
    def names(self) -> Names:
        """The model's names in the engine's answer and in the client's."""
        return Names(self.context.target.engine_model, self.context.request.model)

    def client_left(self) -> None:
        """Cancel the request, because its client is gone."""
        if not self._is_gone:
            self._is_gone = True
            self._task.cancel()

    def start_deadline(self) -> None:
        """Start the time limits of the engine's answer: one timer for both."""
        self._started_s = self._loop.time()
        self._waits_for_first_byte = self.context.request.stream
        self._deadline = self._loop.call_at(self._ends_s(), self._check_deadline)

    def first_byte_came(self) -> None:
        """From now on only the limit on the whole answer counts."""
        self._waits_for_first_byte = False

    def unpin(self, error: BaseException | None) -> None:
        """Let go of the engine, unless it has been done; `error` is how the request ended there."""
        pinned, self.pinned = self.pinned, None
        if pinned is not None:
            pinned.unpin(error)

    def reason_of_end(self, error: BaseException | None) -> BaseException | None:
        """Stop the time limits; return the `EngineTimeoutError` or `ClientGoneError` that `error` stands for.

        Any other error is returned as it is. So is a cancellation from elsewhere: the server's, at shutdown.
        """
        if self._deadline is not None:
            self._deadline.cancel()
        if isinstance(error, asyncio.CancelledError):
            if self._is_late and self._task.uncancel() == 0:
                return self._timeout_error()
            if self._is_gone and self._task.uncancel() == 0:
                return ClientGoneError()
        return error

    def count(self, entry: LedgerEntry) -> None:
        """Write onto a ledger row what a stream has used so far."""
        if self.rewriter is not None:
            entry.usage, entry.evidence = self.rewriter.count()

    def rewrite(self, chunk: bytes) -> bytes:
        """Rewrite a chunk of the engine's stream; returns whole events for the client, possibly none."""
        assert self.rewriter is not None, "a stream was asked for"
        events = self.rewriter.feed(chunk)
        if events:
            if self.entry is not None:
                self.entry.chunks += 1
            if self.context.captured is not None:
                self.context.captured.append(events)
        return events

    def relay(self, chunk: bytes) -> bool:
        """Rewrite a chunk and write it to the client; False when the client has to read before there can be more.

        Runs in the callback of the engine's socket, so no task is woken for a chunk. Raises the engine's failure.
        """
        events = self.rewrite(chunk)
        self.client_is_full = bool(events) and not self.client.write_events(events)
        self.raise_failure()
        return not self.client_is_full

    def raise_failure(self) -> None:
        """Raise the failure that the engine reported inside its stream, if it did."""
        rewriter = self.rewriter
        if rewriter is not None and rewriter.failure is not None:
            raise self.explain(rewriter.failure, rewriter.failure_event)

    def explain(self, error: GatewayError, answer: bytes) -> GatewayError:
        """Translate an engine's error into the terms of the request."""
        return self.context.api.explain(self.context.request, error, answer)

    @property
    def _is_first_byte_next(self) -> bool:
        """Whether the limit on a stream's first byte is the next one to end."""
        return self._waits_for_first_byte and self._limits.first_byte_s < self._limits.total_s

    def _ends_s(self) -> float:
        limits = self._limits
        return self._started_s + (limits.first_byte_s if self._is_first_byte_next else limits.total_s)

    def _check_deadline(self) -> None:
        if self._loop.time() < self._ends_s():  # the first byte has come since the timer was set
            self._deadline = self._loop.call_at(self._ends_s(), self._check_deadline)
        else:
            self._is_late = True
            self._task.cancel()

    def _timeout_error(self) -> EngineTimeoutError:
        if self._is_first_byte_next:
            code, limit_s, what = "engine_first_byte_timeout", self._limits.first_byte_s, "did not begin"
        else:
            code, limit_s, what = "engine_total_timeout", self._limits.total_s, "was not complete"
        return EngineTimeoutError(f"The engine's answer {what} within {limit_s:g} s.", code=code)
