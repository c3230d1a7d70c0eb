"""One request while the engine answers it: what is asked, how long it may take, and the answer on its way back."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.auth import Caller
from gateway.costs.request_price import WorkPrice
from gateway.engines.http import Connection
from gateway.errors import EngineBrokeOffError, EngineTimeoutError
from gateway.inference.formats import Api, InferenceRequest, Names, StreamRewriter
from gateway.inference.routing import Target
from gateway.metering import Entry


@dataclass(slots=True)
class RequestContext:
    """One authenticated request: `id` is ours and unique, `headers` are what the engine may see of the client's."""

    id: str
    client_id: str | None
    caller: Caller
    api: Api
    request: InferenceRequest
    target: Target
    headers: Mapping[str, str]
    received_s: float
    """When its body was complete, on `time.perf_counter`."""
    mirror_to: Target | None = None
    """The shadow that this request is asked of again once it has been answered."""
    heard: list[bytes] | None = None
    """Gathers what the client was sent, when the answer will be compared with another or looked at afterwards."""
    is_watched: bool = False
    """The answer is one of the sample that is looked at afterwards."""
    is_on_ledger: bool = False
    """It has a row, which will say how it ended."""
    limit_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Takes what the client is told of its limits."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds an answer may take: until a stream's first byte, and in all."""

    first_byte_s: float
    total_s: float


class ResponseRelay:
    """One request whose engine answer has begun: either `read()`, or `first_events()` and then `relay()`."""

    def __init__(
        self, call: RequestContext, entry: Entry, response: Connection, deadline: "Deadline", price: WorkPrice
    ) -> None:
        self._call = call
        self._price = price
        self._entry = entry
        self._response = response
        self._deadline = deadline
        self._names = Names(call.target.engine_model, call.request.model)
        self._rewriter = call.api.stream(call.request, self._names) if call.request.stream else None

    async def read(self) -> bytes:
        """The whole answer of a request that did not ask for a stream."""
        body = await self._response.read()
        self._entry.mark_first_byte()
        answer, self._entry.usage = self._call.api.whole(body, self._names)
        self._entry.evidence = self._entry.usage.evidence
        if self._call.heard is not None:
            self._call.heard.append(answer)
        return answer

    def cost_headers(self) -> list[tuple[bytes, bytes]]:
        """What the whole answer cost, for a client that asked; the row will say the same."""
        return self._price.headers(self._price.cost_nano_usd(self._entry.usage))

    async def first_events(self) -> bytes:
        """A stream's first events for the client; raises `EngineBrokeOffError` when the stream ends without any."""
        events = b""
        while not events and (chunk := await self._response.next_chunk()):
            events = self._rewrite(chunk)
            if not events:
                self._demand_no_error()
        if not events:
            raise EngineBrokeOffError
        self._entry.mark_first_byte()
        self._deadline.first_byte_came()
        return events

    async def relay(self, write: Callable[[bytes], bool]) -> bool:
        """Write all other events as they come; True when `write` said that the client has to read first."""
        is_full = False

        def sink(chunk: bytes) -> bool:
            nonlocal is_full
            events = self._rewrite(chunk)
            is_full = bool(events) and not write(events)
            self._demand_no_error()
            return not is_full

        self._demand_no_error()
        await self._response.pump(sink)
        if not is_full and not self._stream.saw_end:
            raise EngineBrokeOffError
        return is_full

    def close(self) -> None:
        """Note what a stream cost, however far it came."""
        self.count(self._entry)

    def count(self, entry: Entry) -> None:
        """Write onto a row what a stream has cost so far."""
        if self._rewriter is not None:
            entry.usage, entry.evidence = self._rewriter.count()

    @property
    def _stream(self) -> StreamRewriter:
        assert self._rewriter is not None, "asked for a stream"
        return self._rewriter

    def _rewrite(self, chunk: bytes) -> bytes:
        events = self._stream.feed(chunk)
        self._entry.chunks += bool(events)
        if self._call.heard is not None and events:
            self._call.heard.append(events)
        return events

    def _demand_no_error(self) -> None:
        if self._stream.failure is not None:
            raise self._call.api.explain(self._call.request, self._stream.failure, self._stream.told)


class Deadline:
    """The time limits of one answer, over one timer: what takes longer ends in `EngineTimeoutError`, which says why."""

    __slots__ = ("_is_over", "_limits", "_loop", "_started_s", "_task", "_timer", "_waits_for_first_byte")

    def __init__(self, limits: Timeouts, *, is_stream: bool) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._waits_for_first_byte = is_stream
        self._is_over = False
        self._started_s: float
        self._task: asyncio.Task[Any]
        self._timer: asyncio.TimerHandle

    def first_byte_came(self) -> None:
        """From now on only the limit on the whole answer counts."""
        self._waits_for_first_byte = False

    def __enter__(self) -> "Deadline":
        task = asyncio.current_task()
        assert task is not None, "requests run in tasks"
        self._task = task
        self._started_s = self._loop.time()
        self._timer = self._loop.call_at(self._ends_s(), self._look)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._timer.cancel()
        if self._is_over and isinstance(error, asyncio.CancelledError) and self._task.uncancel() == 0:
            raise self._error() from error

    def _ends_s(self) -> float:
        limits = self._limits
        limit_s = min(limits.first_byte_s, limits.total_s) if self._waits_for_first_byte else limits.total_s
        return self._started_s + limit_s

    def _look(self) -> None:
        if self._loop.time() < self._ends_s():  # the first byte has come since the timer was set
            self._timer = self._loop.call_at(self._ends_s(), self._look)
        else:
            self._is_over = True
            self._task.cancel(self._error())  # the engine's circuit sees this on its way out

    def _error(self) -> EngineTimeoutError:
        if self._waits_for_first_byte:
            code, limit_s, what = "engine_first_byte_timeout", self._limits.first_byte_s, "did not begin"
        else:
            code, limit_s, what = "engine_total_timeout", self._limits.total_s, "was not complete"
        return EngineTimeoutError(f"The engine's answer {what} within {limit_s:g} s.", code=code)
