"""Client process of the side-by-side benchmark: workloads, phases, and the check of every answer.

Workloads: plain requests, streams in a burst, paced streams, 70 % load, 256 streams at a time.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
import uvloop

from loadtest.arrivals import poisson_offsets
from loadtest.http1 import Connection, FailureError
from loadtest.metrics import Distribution

FIRST_WORD = b'"w0 '
DONE = b"data: [DONE]"
TEXT_EVENT = b'"content":"w'
GRACE_S = 45
"""How long answers may take after the last request was sent; what is still missing then has failed."""

PLAIN, BURST, LOAD70, PACED, STREAMS256 = "plain", "burst", "load70", "paced", "streams256"
PLAIN_WORDS, STREAM_WORDS = 16, 50
PACE_MS, SLOW_PACE_MS = 10, 50
STREAMS = 256
LOAD = 0.7


@dataclass(frozen=True, slots=True)
class Phase:
    """Load of one phase: request, time, `concurrency` workers in a closed loop, or `rate_per_s` in an open one."""

    port: int
    key: str
    stream: bool
    words: int
    duration_s: float
    concurrency: int = 0
    rate_per_s: float = 0
    even: bool = False
    """Open loop: equal gaps instead of Poisson arrivals."""
    ramp_s: float = 0
    """Requests sent in the first seconds are checked and counted, but are not part of the latencies."""
    requests: int | None = None
    """Stop after so many requests, if that comes first."""
    seed: int = 0


@dataclass(slots=True)
class PhaseCounts:
    """Counts and latencies of one phase, as the client saw them."""

    completed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency_ms: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    running: int = 0
    peak_running: int = 0


@dataclass(frozen=True, slots=True)
class PhaseOutcome:
    """Figures of one phase; `client_cpu_s` is the CPU time of the client process."""

    completed: int
    failed: int
    errors: dict[str, int]
    duration_s: float
    client_cpu_s: float
    peak_running: int
    latency: Distribution | None
    ttft: Distribution | None


def run_phase(phase: Phase) -> PhaseOutcome:
    """Run one phase; failed requests are part of the outcome, never an exception."""
    cpu_s, start_s = time.process_time(), time.perf_counter()
    seen = uvloop.run(_ClosedLoop(phase).run())
    return PhaseOutcome(
        completed=seen.completed,
        failed=seen.errors.total(),
        errors=dict(seen.errors.most_common()),
        duration_s=time.perf_counter() - start_s,
        client_cpu_s=time.process_time() - cpu_s,
        peak_running=seen.peak_running,
        latency=Distribution.of(seen.latency_ms),
        ttft=Distribution.of(seen.ttft_ms),
    )


class CollectedResponse:
    """Collects one response; `first_text_s` is when its first word arrived."""

    __slots__ = ("body", "first_text_s", "status")

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.first_text_s: float | None = None

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status

    def on_data(self, data: bytes) -> None:
        self.body = self.body + data if self.body else data
        if self.first_text_s is None and FIRST_WORD in self.body:
            self.first_text_s = time.perf_counter()


def answer_error(answer: CollectedResponse, words: int, *, stream: bool) -> str | None:
    """Return why an answer is wrong: a word of the mock engine is missing, or `[DONE]`; None when it is right."""
    if answer.status != 200:
        return f"status {answer.status}"
    if not stream:
        try:
            text = orjson.loads(answer.body)["choices"][0]["message"]["content"]
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
            return "not a chat completion"
        return None if text == "".join(f"w{index} " for index in range(words)) else "wrong text"
    if DONE not in answer.body:
        return "no [DONE]"
    found = answer.body.count(TEXT_EVENT)
    return None if found == words else f"{found} chunks instead of {words}"


class _ClosedLoop:
    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._request = request_bytes(phase)
        self._seen = PhaseCounts()
        self._idle: list[Connection] = []
        self._start_s = 0.0

    async def run(self) -> PhaseCounts:
        self._start_s = time.perf_counter()
        try:
            async with asyncio.timeout(self._phase.duration_s + GRACE_S):
                await (self._open_loop() if self._phase.rate_per_s else self._closed_loop())
        except TimeoutError:
            self._seen.errors["unfinished"] += self._seen.running
        for connection in self._idle:
            connection.close()
        return self._seen

    async def _closed_loop(self) -> None:
        left = iter(range(self._phase.requests)) if self._phase.requests else itertools.count()

        async def worker() -> None:
            for _ in left:
                now_s = time.perf_counter()
                if now_s >= self._start_s + self._phase.duration_s:
                    return
                await self._send(now_s)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._phase.concurrency):
                group.create_task(worker())

    async def _open_loop(self) -> None:
        async with asyncio.TaskGroup() as group:
            for offset_s in self._offsets():
                intended_s = self._start_s + offset_s
                await asyncio.sleep(max(0.0, intended_s - time.perf_counter()))
                group.create_task(self._send(intended_s))

    def _offsets(self) -> Iterator[float]:
        phase = self._phase
        gaps = itertools.count(0, 1 / phase.rate_per_s) if phase.even else poisson_offsets(phase.rate_per_s, phase.seed)
        return itertools.takewhile(lambda offset_s: offset_s < phase.duration_s, gaps)

    async def _send(self, intended_s: float) -> None:
        seen, answer = self._seen, CollectedResponse()
        seen.running += 1
        seen.peak_running = max(seen.peak_running, seen.running)
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            end_s = await connection.send(self._request, answer)
        except (OSError, FailureError) as error:
            seen.errors[type(error).__name__] += 1
            seen.running -= 1
            return
        seen.running -= 1
        if connection.open:
            self._idle.append(connection)
        wrong = answer_error(answer, self._phase.words, stream=self._phase.stream)
        if wrong:
            seen.errors[wrong] += 1
            return
        seen.completed += 1
        if intended_s - self._start_s >= self._phase.ramp_s:
            seen.latency_ms.append((end_s - intended_s) * 1000)
            if self._phase.stream and answer.first_text_s is not None:
                seen.ttft_ms.append((answer.first_text_s - intended_s) * 1000)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._phase.port)
        return connection


def request_bytes(phase: Phase) -> bytes:
    """Return the HTTP request of a phase, head and body."""
    messages = [{"role": "user", "content": "Sort this ticket: the invoice of March was charged twice."}]
    document = {"model": "base", "messages": messages, "max_tokens": phase.words, "stream": phase.stream}
    body = orjson.dumps(document)
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{phase.port}",
        *([f"authorization: Bearer {phase.key}"] if phase.key else []),
        "content-type: application/json",
        f"content-length: {len(body)}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class Stage:
    """Workloads that share one pace of the engine; every system is started anew for each, which times cold starts."""

    itl_ms: float
    workloads: tuple[str, ...]


STAGES = (Stage(0, (PLAIN, BURST, LOAD70)), Stage(PACE_MS, (PACED,)), Stage(SLOW_PACE_MS, (STREAMS256,)))


def workload_phase(workload: str, port: int, key: str, seconds: float, rate_per_s: float = 0, seed: int = 0) -> Phase:
    """Return one phase of a workload; `seconds` is its length, ramps come on top."""
    stream = workload in (BURST, PACED, STREAMS256)
    words = STREAM_WORDS if stream else PLAIN_WORDS
    stream_s = STREAM_WORDS * SLOW_PACE_MS / 1000
    match workload:
        case "streams256":
            # In the steady state, arrivals per second times the length of a stream are the streams at a time.
            rate, length_s = STREAMS / stream_s, stream_s + seconds
            return Phase(port, key, stream, words, length_s, rate_per_s=rate, even=True, ramp_s=stream_s)
        case "load70":
            return Phase(port, key, stream, words, seconds, rate_per_s=rate_per_s, seed=seed)
        case _:
            workers = 32 if workload == PACED else 16
            return Phase(port, key, stream, words, seconds, concurrency=workers)
