"""Keep-alive: a stream that is silent for long carries comments, so that nothing in between cuts the connection."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator


class KeepAlive:
    """Calls `beat` whenever nothing was sent for `interval_s`; costs a timer per stream and nothing per chunk."""

    def __init__(self, interval_s: float, sent_s: Callable[[], float], beat: Callable[[], Awaitable[None]]) -> None:
        self._interval_s = interval_s
        self._sent_s = sent_s
        self._beat = beat
        self._timer: asyncio.TimerHandle | None = None
        self._beats: set[asyncio.Future[None]] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch the stream for as long as the context is open; an interval of 0 watches nothing."""
        if self._interval_s:
            self._look_in(self._interval_s)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for beat in self._beats:
                beat.cancel()

    def _look_in(self, wait_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _look(self) -> None:
        silent_s = time.perf_counter() - self._sent_s()
        if silent_s >= self._interval_s:
            beat = asyncio.ensure_future(self._beat())
            self._beats.add(beat)
            beat.add_done_callback(self._beats.discard)
            silent_s = 0.0
        self._look_in(self._interval_s - silent_s)
