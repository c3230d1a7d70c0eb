"""Poison containment: a request that was running when an engine died is not run again for a while.

Ordinary-looking requests exist that kill a vLLM engine. Whoever sends one usually sends it again, and a gateway that
replays it elsewhere kills one engine after the other. So nothing is ever replayed, and what was running at a death
is recognised by its bytes when it comes back.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.errors import EngineFailedError, EngineTimeoutError, SuspectRequestError

# A request fails a moment before its engine is known to be dead.
_BEFORE_DEATH_S = 10.0
_MOST = 10_000


class Suspects:
    """What runs on which engine, and what was running when one died; requests are known by a hash of their bytes."""

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._running: dict[str, dict[object, int]] = defaultdict(dict)
        self._failed: dict[str, dict[int, float]] = defaultdict(dict)
        self._until_s: dict[int, float] = {}

    def check(self, fingerprint: int) -> None:
        """Raise `SuspectRequestError` for a request that may have killed an engine."""
        if self._until_s and (until_s := self._until_s.get(fingerprint)):
            if (wait_s := until_s - self._clock()) > 0:
                raise SuspectRequestError(wait_s)
            del self._until_s[fingerprint]

    @contextmanager
    def watch(self, engine: str, fingerprint: int) -> Iterator[None]:
        """Note that a request runs on an engine, and when the engine failed it."""
        ticket = object()
        self._running[engine][ticket] = fingerprint
        try:
            yield
        except (EngineFailedError, EngineTimeoutError):
            failed = self._failed[engine]
            if len(failed) < _MOST:
                failed[fingerprint] = self._clock()
            raise
        finally:
            del self._running[engine][ticket]

    def engine_died(self, engine: str) -> None:
        """Suspect whatever ran on the engine at its death or failed just before."""
        now = self._clock()
        failed = self._failed.pop(engine, {})
        suspects = {*self._running[engine].values()}
        suspects |= {fingerprint for fingerprint, at_s in failed.items() if now - at_s < _BEFORE_DEATH_S}
        self._until_s = {known: until_s for known, until_s in self._until_s.items() if until_s > now}
        self._until_s |= dict.fromkeys(suspects, now + self._ttl_s)

    def __len__(self) -> int:
        """How many requests are under suspicion."""
        return len(self._until_s)
