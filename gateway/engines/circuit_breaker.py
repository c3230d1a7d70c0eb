"""A circuit breaker: an engine that keeps failing requests gets none for a while, then one to try it."""

import time
from collections.abc import Callable
from enum import StrEnum

_FAILURES_TO_OPEN = 3
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Circuit(StrEnum):
    """Whether requests may pass: all (CLOSED), none (OPEN), or one at a time as a trial (HALF_OPEN)."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Counts failures in a row; each time it opens, it stays open twice as long as before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_s = _FIRST_PAUSE_S
        self._open_until_s = 0.0
        self._is_trying = False

    @property
    def state(self) -> Circuit:
        """Where the circuit stands now."""
        if self._failures < _FAILURES_TO_OPEN:
            return Circuit.CLOSED
        return Circuit.OPEN if self._clock() < self._open_until_s else Circuit.HALF_OPEN

    @property
    def allows(self) -> bool:
        """Whether a request may be sent now."""
        return self._failures < _FAILURES_TO_OPEN or (self.state is Circuit.HALF_OPEN and not self._is_trying)

    def begin(self) -> None:
        """A request is about to be sent; in HALF_OPEN it is the trial, and no other may follow until it ends."""
        self._is_trying = self.state is Circuit.HALF_OPEN

    def heard(self) -> None:
        """The engine has begun to answer: a trial is over, and the next failure opens the circuit again."""
        self._failures = min(self._failures, _FAILURES_TO_OPEN - 1)
        self._is_trying = False

    def succeeded(self) -> None:
        """The engine answered, whatever it said."""
        self._failures = 0
        self._pause_s = _FIRST_PAUSE_S
        self._is_trying = False

    def failed(self) -> None:
        """The engine could not be reached, broke off, or was mute until a time limit."""
        if self.state is Circuit.OPEN:
            return  # began before it opened, and tells nothing new
        self._failures += 1
        self._is_trying = False
        if self._failures >= _FAILURES_TO_OPEN:
            self._open_until_s = self._clock() + self._pause_s
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)

    def abandoned(self) -> None:
        """The request ended without telling anything about the engine."""
        self._is_trying = False
