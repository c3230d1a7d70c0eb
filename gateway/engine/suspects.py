"""Poison containment: a request that was running when an engine died is not run again for a while.

Ordinary-looking requests exist that kill a vLLM engine. Whoever sends one usually sends it again, and a gateway that
replays it elsewhere kills one engine after the other. So nothing is ever replayed, and what was running at a death
is recognised by its bytes when it comes back.
"""

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import EngineFailedError, EngineTimeoutError, SuspectRequestError

# A dying engine fails its requests a moment before it is known to be dead.
_BEFORE_DEATH_S = 10.0
_MOST = 10_000


@dataclass(slots=True)
class Run:
    """One request on one engine, and when the engine failed it."""

    fingerprint: int
    started_s: float
    failed_s: float = math.inf


class Suspects:
    """What runs on which engine, and what was running when one died; requests are known by a hash of their bytes."""

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._running: dict[str, dict[int, Run]] = defaultdict(dict)
        self._failed: dict[str, deque[Run]] = defaultdict(lambda: deque(maxlen=_MOST))
        self._until_s: dict[int, float] = {}

    def check(self, fingerprint: int) -> None:
        """Raise `SuspectRequestError` for a request that may have killed an engine."""
        if self._until_s and (until_s := self._until_s.get(fingerprint)):
            if (wait_s := until_s - self._clock()) > 0:
                raise SuspectRequestError(wait_s)
            del self._until_s[fingerprint]

    def began(self, engine: str, fingerprint: int) -> Run:
        """Note that a request runs on an engine; `ended` must follow."""
        run = Run(fingerprint, self._clock())
        self._running[engine][id(run)] = run
        return run

    def ended(self, engine: str, run: Run, error: BaseException | None) -> None:
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
