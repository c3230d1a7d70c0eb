"""What kind of body a request has: plain, or one of many that an engine may fail on whatever the model is.

Two bodies are of one kind when they ask for the same in everything but their texts: an engine that fails on one fails
on the other.

Poison containment: a request that was running when an engine died is not run again for a while.

Ordinary-looking requests exist that kill a vLLM engine. Whoever sends one usually sends it again, and a gateway that
replays it elsewhere kills one engine after the other. So nothing is ever replayed, and what was running at a death
is recognised by its bytes when it comes back.
"""

import hashlib
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import EngineFailedError, EngineTimeoutError, SuspectRequestError

_TEXTS = ("messages", "input", "prompt", "system", "instructions")
# What every application sends, and no engine fails on once the fields have been checked.
_PLAIN = frozenset(
    {
        *_TEXTS,
        *("model", "stream", "stream_options", "user", "safety_identifier", "metadata", "store", "prompt_cache_key"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "seed", "n", "logprobs"),
        *("frequency_penalty", "presence_penalty", "parallel_tool_calls", "service_tier", "cache_salt", "request_id"),
    }
)
_PLAIN_MESSAGE = frozenset({"role", "content"})


def body_kind(document: Mapping[str, Any]) -> bytes | None:
    """A digest of all but the texts of a body; None when there is nothing else in it."""
    extras = {name: value for name, value in document.items() if name not in _PLAIN and value is not None}
    shapes = sorted({shape for name in _TEXTS for shape in _shapes(document.get(name))})
    if not extras and not shapes:
        return None
    kind = orjson.dumps([extras, shapes], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(kind, digest_size=16).digest()


def _shapes(value: Any) -> Iterator[str]:
    """How the messages and parts within a text are built, where they are more than a role and a text."""
    left = [value] if isinstance(value, list) else []
    while left:
        for item in left.pop():
            if isinstance(item, dict):
                if not (item.keys() <= _PLAIN_MESSAGE and isinstance(item.get("content"), str)):
                    yield " ".join(sorted(f"{name}:{_word(name, inner)}" for name, inner in item.items()))
                left += [inner for inner in item.values() if isinstance(inner, list)]


def _word(name: str, value: Any) -> str:
    """A role or the type of a part as it is, of anything else what it is."""
    return str(value)[:40] if name in ("role", "type") else type(value).__name__


# A dying engine fails its requests a moment before it is known to be dead.
_BEFORE_DEATH_S = 10.0
_MOST = 10_000


@dataclass(slots=True)
class RunningRequest:
    """One request on one engine, and when the engine failed it."""

    fingerprint: int
    started_s: float
    failed_s: float = math.inf


class PoisonRequests:
    """What runs on which engine, and what was running when one died; requests are known by a hash of their bytes."""

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._running: dict[str, dict[int, RunningRequest]] = defaultdict(dict)
        self._failed: dict[str, deque[RunningRequest]] = defaultdict(lambda: deque(maxlen=_MOST))
        self._until_s: dict[int, float] = {}

    def check(self, fingerprint: int) -> None:
        """Raise `SuspectRequestError` for a request that may have killed an engine."""
        if self._until_s and (until_s := self._until_s.get(fingerprint)):
            if (wait_s := until_s - self._clock()) > 0:
                raise SuspectRequestError(wait_s)
            del self._until_s[fingerprint]

    def began(self, engine: str, fingerprint: int) -> RunningRequest:
        """Note that a request runs on an engine; `ended` must follow."""
        run = RunningRequest(fingerprint, self._clock())
        self._running[engine][id(run)] = run
        return run

    def ended(self, engine: str, run: RunningRequest, error: BaseException | None) -> None:
        """Note how the request ended, and when the engine failed it."""
        del self._running[engine][id(run)]
        if isinstance(error, EngineFailedError | EngineTimeoutError):
            run.failed_s = self._clock()
            self._failed[engine].append(run)

    def engine_died(self, engine: str) -> None:
        """Suspect what was running when the engine began to fail; what came later met an engine already dead."""
        now = self._clock()
        runs = [run for run in self._failed.pop(engine, ()) if now - run.failed_s < _BEFORE_DEATH_S]
        began_s = min((run.failed_s for run in runs), default=now)
        suspects = {run.fingerprint for run in (*runs, *self._running[engine].values()) if run.started_s <= began_s}
        self._until_s = {known: until_s for known, until_s in self._until_s.items() if until_s > now}
        self._until_s |= dict.fromkeys(suspects, now + self._ttl_s)

    def __len__(self) -> int:
        """How many requests are under suspicion."""
        return len(self._until_s)
