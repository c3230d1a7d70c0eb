"""State of the mock engine: settings, faults, adapters and their slots, counters.

As in vLLM, at most `max_loras` different adapters run at a time and requests for others wait. Loading an adapter into a
slot takes `load_ms`, during which no request makes progress; unloading only forgets the name.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """Injected fault, for one request (its field `mock_fault`) or for all of them."""

    DROP = "drop"
    """The connection closes before the first byte of the answer."""
    DROP_MID_STREAM = "drop_mid_stream"
    """The connection closes after half of the tokens."""
    HANG = "hang"
    """No answer until the client gives up."""
    HANG_MID_STREAM = "hang_mid_stream"
    """Half of the tokens, then silence until the client gives up."""
    ERROR_500 = "error_500"
    """A 500 whose message carries a file path."""
    ERROR_MID_STREAM = "error_mid_stream"
    """Half of the tokens, then an error event and `[DONE]`, as vLLM reports a failed generation."""
    SLOW = "slow"
    """Ten times the configured time to first token and between tokens."""
    WRONG_USAGE = "wrong_usage"
    """Usage claims one token more than was sent."""


@dataclass(frozen=True, slots=True)
class MockSettings:
    """Timing and behaviour: times in milliseconds, `tokens` per answer unless the request asks for fewer."""

    served_model_name: str = "base"
    ttft_ms: float = 0
    itl_ms: float = 0
    tokens: int = 16
    max_loras: int = 8
    load_ms: float = 0
    max_num_seqs: int = 1_000_000
    """Requests that run at a time; more wait their turn, as in vLLM."""
    coalesce: bool = True
    """Whether tokens that come without a pause are sent in one piece; vLLM sends every token by itself."""
    fault: Fault | None = None
    fault_share: float = 1.0
    """Share of the requests that `fault` meets, spread evenly."""
    api_key: str = ""
    tells_tokens: bool = False
    """Whether it reports the tokens of single requests, as vLLM does with Turntable's plugin."""


@dataclass
class MockUsage:
    """Tokens of one request so far, or in all when it no longer runs."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    is_running: bool = True


@dataclass
class MockEngine:
    """State of one mock engine; counters may be read from another thread."""

    settings: MockSettings
    adapters: dict[str, str] = field(default_factory=dict)
    """Loaded adapter names and their paths, as `/v1/models` lists them."""
    received: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=100))
    """The latest chat request bodies, as they arrived."""
    headers: deque[dict[bytes, bytes]] = field(default_factory=lambda: deque(maxlen=100))
    """The headers of the latest chat requests."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """Fault by model, for all its requests, besides `settings.fault`."""
    inert: set[str] = field(default_factory=set)
    """Names of adapters that load and change nothing, with all their versions."""
    running: int = 0
    waiting: int = 0
    """Requests waiting for a place in the batch."""
    prompt_tokens: int = 0
    generation_tokens: int = 0
    """Counted as vLLM does: a prompt with its first token, every token when it is generated."""
    started_s: float = field(default_factory=time.time)
    works: dict[str, MockUsage] = field(default_factory=dict)
    """Tokens of requests by the sender's request id, when `settings.tells_tokens`."""
    finished: int = 0
    aborted: int = 0
    """Requests whose connection ended before the answer was complete."""
    loads: int = 0
    """How often an adapter was brought into a slot."""
    _faults_owed: float = 0.0
    _slots: dict[str, None] = field(default_factory=dict)
    _active: Counter[str] = field(default_factory=Counter)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _load_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stepping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._stepping.set()
        self._places = asyncio.Semaphore(self.settings.max_num_seqs)

    def next_fault(self) -> Fault | None:
        """Return the configured fault when it is this request's turn."""
        if self.settings.fault is None:
            return None
        self._faults_owed += self.settings.fault_share
        if self._faults_owed < 1 - 1e-9:
            return None
        self._faults_owed -= 1
        return self.settings.fault

    def knows(self, model: str) -> bool:
        """Return whether `model` is the base model or a loaded adapter."""
        return model == self.settings.served_model_name or model in self.adapters

    @contextmanager
    def working(self, request_id: str) -> Iterator[MockUsage]:
        """Track the tokens of one request while the engine works on it."""
        work = MockUsage()
        if self.settings.tells_tokens and request_id:
            self.works[request_id] = work
        try:
            yield work
        finally:
            work.is_running = False

    def count(self, work: MockUsage, prompt_tokens: int, generation_tokens: int) -> None:
        """Add tokens of a request to the counters."""
        work.prompt_tokens += prompt_tokens
        work.generation_tokens += generation_tokens
        self.prompt_tokens += prompt_tokens
        self.generation_tokens += generation_tokens

    async def generate(self, work: MockUsage, tokens: int, itl_ms: float) -> None:
        """Generate tokens without streaming; when cancelled, count those generated so far."""
        began_s = time.monotonic()
        try:
            await self.pause(itl_ms * tokens)
        except asyncio.CancelledError:
            self.count(work, 0, min(tokens, int((time.monotonic() - began_s) * 1000 / itl_ms)))
            raise
        self.count(work, 0, tokens)

    def stats(self) -> dict[str, Any]:
        """Return the counters and the adapters in slots, least recently used first."""
        return {
            "running": self.running,
            "waiting": self.waiting,
            "finished": self.finished,
            "aborted": self.aborted,
            "loads": self.loads,
            "resident": list(self._slots),
            "adapters": list(self.adapters),
        }

    async def load(self, name: str, path: str) -> None:
        """Bring an adapter into a slot and list it."""
        await self._bring_in(name)
        self.adapters[name] = path

    @asynccontextmanager
    async def running_request(self, model: str) -> AsyncIterator[None]:
        """Hold a place in the batch, and the adapter's slot, for the length of one request."""
        async with self._place():
            self.running += 1
            try:
                if model == self.settings.served_model_name:
                    yield
                else:
                    async with self._slot(model):
                        yield
            finally:
                self.running -= 1

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    async def pause(self, wait_ms: float) -> None:
        """Wait as a decoding step does: longer while an adapter load stalls the engine."""
        if wait_ms > 0:
            await asyncio.sleep(wait_ms / 1000)
        await self._stepping.wait()

    @asynccontextmanager
    async def _slot(self, name: str) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_room(name))
            self._active[name] += 1
        try:
            await self._bring_in(name)
            yield
        finally:
            self._active[name] -= 1
            async with self._changed:
                self._changed.notify_all()

    def _has_room(self, name: str) -> bool:
        active = {other for other, requests in self._active.items() if requests}
        return name in active or len(active) < self.settings.max_loras

    async def _bring_in(self, name: str) -> None:
        async with self._load_lock:
            if name not in self._slots:
                await self._stall()
                self._evict()
                self.loads += 1
            self._slots.pop(name, None)
            self._slots[name] = None

    async def _stall(self) -> None:
        self._stepping.clear()
        try:
            await asyncio.sleep(self.settings.load_ms / 1000)
        finally:
            self._stepping.set()

    def _evict(self) -> None:
        if len(self._slots) < self.settings.max_loras:
            return
        idle = [name for name in self._slots if not self._active[name]]
        del self._slots[idle[0] if idle else next(iter(self._slots))]
