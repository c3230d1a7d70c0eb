"""The life of an inference request on one page: admit -> ledger -> pin -> engine, contexts that clean up
after themselves.

Leaving the contexts, exactly once and however the request ended: the engine's stream is closed, the adapter unpinned,
the row settled, the metrics counted, the slot given back.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from gateway.admission import Admission
from gateway.apis import Api, InferenceRequest, Names
from gateway.auth import Caller
from gateway.engine.client import translate
from gateway.engine.engine import Engine
from gateway.engine.http import Connection
from gateway.engine.pool import EnginePool
from gateway.engine.suspects import Suspects
from gateway.errors import (
    EngineBrokeOffError,
    EngineFailedError,
    EngineTimeoutError,
    EngineUnreachableError,
    GatewayError,
)
from gateway.ledger import Entry, Finish, Ledger, now_us
from gateway.metrics import Metrics
from gateway.resolve import Target
from gateway.usage import Evidence, Usage

log = logging.getLogger(__name__)
# The client left, or the answer took too long: the engine has worked all the same.
_CUT_OFF = frozenset({499, 504})


@dataclass(slots=True)
class Call:
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


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds an answer may take: until a stream's first byte, and in all."""

    first_byte_s: float
    total_s: float


class Exchange:
    """One request whose engine answer has begun: either `read()` or `stream()`."""

    def __init__(self, call: Call, entry: Entry, response: Connection, deadline: "Deadline") -> None:
        self._call = call
        self._entry = entry
        self._response = response
        self._deadline = deadline
        self._names = Names(call.target.engine_model, call.request.model)

    async def read(self) -> bytes:
        """The whole answer of a request that did not ask for a stream."""
        body = await self._response.read()
        self._entry.mark_first_byte()
        answer, self._entry.usage = self._call.api.whole(body, self._names)
        self._entry.evidence = Evidence.EXACT
        return answer

    async def stream(self) -> AsyncIterator[bytes]:
        """The answer's events for the client; token counts are kept up to date while it runs."""
        rewriter = self._call.api.stream(self._call.request, self._names)
        entry = self._entry
        try:
            while chunk := await self._response.next_chunk():
                if events := rewriter.feed(chunk):
                    if entry.first_byte_us is None:
                        entry.mark_first_byte()
                        self._deadline.first_byte_came()
                    entry.chunks += 1
                    yield events
                if rewriter.saw_error:
                    raise EngineFailedError("The engine failed on this request; its log has the details.")
            if not rewriter.saw_end:
                raise EngineBrokeOffError
        finally:
            entry.usage, entry.evidence = rewriter.count()


class Deadline:
    """The time limits of one answer, over one timer."""

    def __init__(self, limits: Timeouts, *, is_stream: bool) -> None:
        self._limits = limits
        self._started_s = asyncio.get_running_loop().time()
        self._waits_for_first_byte = is_stream
        limit_s = min(limits.first_byte_s, limits.total_s) if is_stream else limits.total_s
        self._timer = asyncio.timeout_at(self._started_s + limit_s)

    def first_byte_came(self) -> None:
        """From now on only the limit on the whole answer counts."""
        self._waits_for_first_byte = False
        self._timer.reschedule(self._started_s + self._limits.total_s)

    @contextlib.asynccontextmanager
    async def enforced(self) -> AsyncIterator["Deadline"]:
        """Run what is inside until the limit; then raise `EngineTimeoutError`, which says which limit it was."""
        try:
            async with self._timer:
                yield self
        except TimeoutError as error:
            if self._waits_for_first_byte:
                code, limit_s, what = "engine_first_byte_timeout", self._limits.first_byte_s, "did not begin"
            else:
                code, limit_s, what = "engine_total_timeout", self._limits.total_s, "was not complete"
            raise EngineTimeoutError(f"The engine's answer {what} within {limit_s:g} s.", code=code) from error


class Inference:
    """Opens exchanges: the one place where a request's steps stand in order. `ended` sees every request at its end."""

    def __init__(
        self,
        admission: Admission,
        suspects: Suspects,
        ledger: Ledger,
        pool: EnginePool,
        metrics: Metrics,
        timeouts: Timeouts,
        *,
        ended: Callable[[Call, Entry], None] | None = None,
    ) -> None:
        self._admission = admission
        self._suspects = suspects
        self._ledger = ledger
        self._pool = pool
        self._metrics = metrics
        self._timeouts = timeouts
        self._ended = ended

    @contextlib.asynccontextmanager
    async def exchange(self, call: Call) -> AsyncIterator[Exchange]:
        """Everything that may still become an HTTP status happens before this yields."""
        self._suspects.check(hash(call.request.body))
        self._pool.require_ready()
        body = call.api.engine_body(call.request, call.target.engine_model)
        async with (
            self._admission.slot() as waited_s,
            self._row(call) as entry,
            Deadline(self._timeouts, is_stream=call.request.stream).enforced() as deadline,
            contextlib.AsyncExitStack() as stack,
        ):
            response, engine = await self._send(stack, call, entry, body)
            metrics = self._metrics.of_requests(call.target.label, engine.name)
            metrics.queue_s.observe(waited_s)
            metrics.overhead_s.observe(entry.sent_s - call.received_s - waited_s)
            if response.status != 200:
                raise translate(call.api.path, response.status, await response.read())
            yield Exchange(call, entry, response, deadline)
            engine.learn_pace((now_us() - entry.opened_us) / 1e6, entry.usage.completion_tokens)

    async def _send(
        self, stack: contextlib.AsyncExitStack, call: Call, entry: Entry, body: bytes
    ) -> tuple[Connection, Engine]:
        """Hand the request to an engine; to a second one only when the first never accepted it."""
        version = call.target.version
        engine = await stack.enter_async_context(self._pool.hold(version))
        for may_retry in (len(self._pool.engines) > 1, False):
            entry.engine = engine.name
            entry.mark_sent()
            posted = engine.post(call.api.path, body, call.headers, fingerprint=hash(call.request.body))
            try:
                return await stack.enter_async_context(posted), engine
            except EngineUnreachableError:
                if not may_retry:
                    raise
            self._metrics.retries.inc()
            engine = await stack.enter_async_context(self._pool.hold(version, avoid=engine))
        raise AssertionError("the second attempt returns or raises")

    @contextlib.asynccontextmanager
    async def _row(self, call: Call) -> AsyncIterator[Entry]:
        version = call.target.version
        entry = Entry(
            request_id=call.id,
            tenant=call.caller.tenant,
            key_id=call.caller.key_id,
            model=call.request.model,
            adapter=version.name if version else None,
            digest=version.digest if version else None,
            stream=call.request.stream,
            endpoint=call.api.path,
            client_request_id=call.client_id,
        )
        try:
            if call.api.metered:
                await self._ledger.open(entry)
            yield entry
        except asyncio.CancelledError:
            entry.finish, entry.status = Finish.CLIENT_ABORT, 499
            raise
        except GatewayError as error:
            entry.finish = Finish.REFUSED if error.status < 500 else Finish.ENGINE_ERROR
            entry.status = error.status
            raise
        finally:
            if entry.status in _CUT_OFF and entry.evidence is Evidence.NONE:
                self._estimate(entry, call)
            self._count(entry, call.target)
            if self._ended is not None:
                self._ended(call, entry)
            if call.api.metered:
                self._settle(entry)

    def _estimate(self, entry: Entry, call: Call) -> None:
        """Tokens of a whole answer that was cut off: four bytes are about a prompt token, and the engine's pace tells
        how far it got.
        """
        engine = next((engine for engine in self._pool.engines if engine.name == entry.engine), None)
        if engine is None or not entry.sent_s or not engine.s_per_token:
            return
        generated = int((time.perf_counter() - entry.sent_s) / engine.s_per_token)
        entry.usage = Usage(len(call.request.body) // 4, min(generated, call.api.most_tokens(call.request)))
        entry.evidence = Evidence.ESTIMATED

    def _count(self, entry: Entry, target: Target) -> None:
        self._metrics.requests.labels(target.label, str(entry.status)).inc()
        if entry.engine is None:
            return
        metrics, latency_us = self._metrics.of_requests(target.label, entry.engine), now_us() - entry.opened_us
        metrics.prompt_tokens.inc(entry.usage.prompt_tokens)
        metrics.completion_tokens.inc(entry.usage.completion_tokens)
        metrics.latency_s.observe(latency_us / 1e6)
        if entry.ttft_us is not None:
            metrics.ttft_s.observe(entry.ttft_us / 1e6)
            if entry.chunks > 1:
                metrics.itl_s.observe((latency_us - entry.ttft_us) / (entry.chunks - 1) / 1e6)

    def _settle(self, entry: Entry) -> None:
        """Hand the row to the ledger's writer; nobody waits, and what fails is told."""

        def told(settled: asyncio.Future[None]) -> None:
            if not settled.cancelled() and (error := settled.exception()):
                self._metrics.unsettled.inc()
                log.error("ledger: settling %s failed; usage %s", entry.request_id, entry.usage, exc_info=error)

        self._ledger.settle(entry).add_done_callback(told)
