"""Circuit breaker: send no requests to an engine that keeps failing them for a while, then one as a trial."""

import time
from collections.abc import Callable
from enum import StrEnum

_FAILURES_TO_OPEN = 3
_MIN_OPEN_S = 1.0
_MAX_OPEN_S = 30.0


class Circuit(StrEnum):
    """State: all requests pass (CLOSED), none (OPEN), or one at a time as a trial (HALF_OPEN)."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens after `_FAILURES_TO_OPEN` failures in a row, each time for twice as long as before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_s = _MIN_OPEN_S
        self._open_until_s = 0.0
        self._is_trying = False

    @property
    def state(self) -> Circuit:
        """Current state of the circuit."""
        if self._failures < _FAILURES_TO_OPEN:
            return Circuit.CLOSED
        return Circuit.OPEN if self._clock() < self._open_until_s else Circuit.HALF_OPEN

    @property
    def allows(self) -> bool:
        """Whether a request may be sent now."""
        return self._failures < _FAILURES_TO_OPEN or (self.state is Circuit.HALF_OPEN and not self._is_trying)

    def begin(self) -> None:
        """Note that a request is about to be sent; in HALF_OPEN it is the trial, and others wait for its end."""
        self._is_trying = self.state is Circuit.HALF_OPEN

    def answering(self) -> None:
        """Note that the engine has begun to answer: a trial is over, and the next failure opens the circuit again."""
        self._failures = min(self._failures, _FAILURES_TO_OPEN - 1)
        self._is_trying = False

    def succeeded(self) -> None:
        """Note that the engine answered, with any status."""
        self._failures = 0
        self._open_s = _MIN_OPEN_S
        self._is_trying = False

    def failed(self) -> None:
        """Note that the engine was unreachable, closed the connection early, or sent no data until a time limit."""
        if self.state is Circuit.OPEN:
            return  # this request began before the circuit opened
        self._failures += 1
        self._is_trying = False
        if self._failures >= _FAILURES_TO_OPEN:
            self._open_until_s = self._clock() + self._open_s
            self._open_s = min(_MAX_OPEN_S, 2 * self._open_s)

    def abandoned(self) -> None:
        """Note that a request ended without evidence about the engine."""
        self._is_trying = False
