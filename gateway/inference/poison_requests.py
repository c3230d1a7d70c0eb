"""Poison requests: a request that was running when an engine died is refused for a while.

Ordinary-looking requests exist that kill a vLLM engine. A client that sent one usually sends it again, and a gateway
that replays it elsewhere kills one engine after the other. So nothing is ever replayed, and a request that was running
at a death is recognised by its bytes when it comes back.

`body_kind` compares bodies for canaries: two bodies are of one kind when they differ in nothing but their texts. An
engine that fails on one fails on the other, whatever the adapter.
"""

import hashlib
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import EngineFailedError, EngineTimeoutError, PoisonRequestError
from gateway.inference.request_guards import UNSERVED_FIELDS

_BEFORE_DEATH_S = 10.0  # a dying engine fails its requests a moment before it is known to be dead
_MAX_FAILED = 10_000
_TEXTS = ("messages", "input", "prompt", "system", "instructions")
# Fields that every application sends and no engine fails on once they have been checked, or never gets.
_PLAIN = frozenset(
    {
        *_TEXTS,
        *UNSERVED_FIELDS,
        *("model", "stream", "stream_options", "user", "safety_identifier", "metadata", "store", "prompt_cache_key"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "seed", "n", "logprobs"),
        *("frequency_penalty", "presence_penalty", "parallel_tool_calls", "service_tier", "cache_salt", "request_id"),
    }
)
_PLAIN_MESSAGE = frozenset({"role", "content"})


def body_kind(document: Mapping[str, Any]) -> bytes | None:
    """Hash all but the texts of a request body; None when nothing is left."""
    extras = {name: value for name, value in document.items() if name not in _PLAIN and value is not None}
    shapes = sorted({shape for name in _TEXTS for shape in _shapes(document.get(name))})
    if not extras and not shapes:
        return None
    kind = orjson.dumps([extras, shapes], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(kind, digest_size=16).digest()


def _shapes(value: Any) -> Iterator[str]:
    """Yield the shapes of messages and parts that are more than a role and a text."""
    left = [value] if isinstance(value, list) else []
    while left:
        for item in left.pop():
            if isinstance(item, dict):
                if not (item.keys() <= _PLAIN_MESSAGE and isinstance(item.get("content"), str)):
                    yield " ".join(sorted(f"{name}:{_word(name, inner)}" for name, inner in item.items()))
                left += [inner for inner in item.values() if isinstance(inner, list)]


def _word(name: str, value: Any) -> str:
    """Return a role or a part's type as it is, and the Python type of any other value."""
    return str(value)[:40] if name in ("role", "type") else type(value).__name__


@dataclass(slots=True)
class RunningRequest:
    """One request on one engine, and when the engine failed it."""

    fingerprint: int
    started_s: float
    failed_s: float = math.inf


class PoisonRequests:
    """Track the requests that run on each engine, and refuse those that ran when one died, for `ttl_s` seconds.

    A fingerprint is a hash of a request's bytes.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._running: dict[str, dict[int, RunningRequest]] = defaultdict(dict)
        self._failed: dict[str, deque[RunningRequest]] = defaultdict(lambda: deque(maxlen=_MAX_FAILED))
        self._until_s: dict[int, float] = {}

    def check(self, fingerprint: int) -> None:
        """Raise `PoisonRequestError` for a request that may have killed an engine."""
        if self._until_s and (until_s := self._until_s.get(fingerprint)):
            if (wait_s := until_s - self._clock()) > 0:
                raise PoisonRequestError(wait_s)
            del self._until_s[fingerprint]

    def began(self, engine: str, fingerprint: int) -> RunningRequest:
        """Note that a request runs on an engine; `ended` must follow."""
        running = RunningRequest(fingerprint, self._clock())
        self._running[engine][id(running)] = running
        return running

    def ended(self, engine: str, running: RunningRequest, error: BaseException | None) -> None:
        """Note how the request ended, and when the engine failed it."""
        del self._running[engine][id(running)]
        if isinstance(error, EngineFailedError | EngineTimeoutError):
            running.failed_s = self._clock()
            self._failed[engine].append(running)

    def engine_died(self, engine: str) -> None:
        """Refuse from now on what was running when the engine began to fail; later requests met it already dead."""
        now_s = self._clock()
        failed = [request for request in self._failed.pop(engine, ()) if now_s - request.failed_s < _BEFORE_DEATH_S]
        began_s = min((request.failed_s for request in failed), default=now_s)
        requests = (*failed, *self._running[engine].values())
        poison = {request.fingerprint for request in requests if request.started_s <= began_s}
        self._until_s = {fingerprint: until_s for fingerprint, until_s in self._until_s.items() if until_s > now_s}
        self._until_s |= dict.fromkeys(poison, now_s + self._ttl_s)

    def __len__(self) -> int:
        """How many requests are refused at present."""
        return len(self._until_s)
