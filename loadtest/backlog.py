"""Detect a growing queue under steady load: requests sent, answered meanwhile, and how latency grows over the test.

A short test hides an overload: the queue has no time to become long, and everything sent is answered in the end. In an
overload of share g, however, latency grows by g seconds per second, and requests are left over when the last one has
been sent. Both are judged after the first answer, so a server that only fills up at the start does not count as one
that falls behind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtest.records import INTERRUPTED, RequestRecord
from loadtest.statistics import LEVEL, t_quantile

SLOT_S = 0.01
MOST_SLOTS = 4096
"""Longer tests get wider slots: memory does not grow with the length of a test."""
LEAST_ANSWERS = 12
LEAST_SHARE_JUDGED = 0.5
"""Of a test that must lie after the first answer; a shorter rest says nothing."""
GROWTH = 0.03
"""Share of the load that may stay behind before the queue is said to grow."""


@dataclass(slots=True)
class _Slot:
    """Requests of a short time: intended to be sent in it with their latencies, and ended in it."""

    sent: int = 0
    latency_s: float = 0.0
    latency_squares: float = 0.0
    measured: int = 0
    answered: int = 0
    ended: int = 0

    def merge(self, other: "_Slot") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Backlog:
    """Backlog of a steady load: throughput, requests in flight, and latency growth."""

    answered_per_s: float
    """Answered from the first answer until the last request was sent: what the server did, not what it was offered."""
    in_flight_at_end: int
    """Requests without an answer when the last one was sent."""
    expected_in_flight: float
    """As many would be at the latency of the first third."""
    first_third_ms: float
    last_third_ms: float
    """Mean time to the end of the answer, of requests sent in the first and in the last third."""
    left_behind: float
    """Share of the load that the server did not keep up with; about 0 when it did."""
    grows: bool
    """Whether the growth is statistically significant."""


@dataclass(slots=True)
class LoadTimeline:
    """Requests and latencies of a test over time, in slots; mergeable across processes."""

    doublings: int = 0
    slots: dict[int, _Slot] = field(default_factory=dict)

    def add(self, record: RequestRecord) -> None:
        """Add one complete record."""
        if record.error == INTERRUPTED:
            return
        sent, ended = self._slot(record.intended_s), self._slot(record.end_s)
        sent.sent += 1
        ended.ended += 1
        if record.error is None:
            latency_s = record.end_s - record.intended_s
            sent.measured += 1
            sent.latency_s += latency_s
            sent.latency_squares += latency_s * latency_s
            ended.answered += 1
        while len(self.slots) > MOST_SLOTS:
            self._double()

    def merge(self, other: "LoadTimeline") -> None:
        """Merge the timeline of another process."""
        while self.doublings < other.doublings:
            self._double()
        for place, slot in other.slots.items():
            self.slots.setdefault(place >> (self.doublings - other.doublings), _Slot()).merge(slot)

    def backlog(self) -> Backlog | None:
        """Return the backlog; None when the test is too short or too sparse to judge."""
        width_s = SLOT_S * 2**self.doublings
        answers = [place for place, slot in self.slots.items() if slot.answered]
        last = max((place for place, slot in self.slots.items() if slot.sent), default=0)
        begin = min(answers, default=last)
        third = (last + 1 - begin) / 3
        first = self._latency(begin, begin + third)
        final = self._latency(last + 1 - third, last + 1)
        judged = self._latency(begin, last + 1)
        if judged.count < LEAST_ANSWERS or min(first.count, final.count) < 3:
            return None
        if last - begin < LEAST_SHARE_JUDGED * last:
            return None
        sent = sum(slot.sent for slot in self.slots.values())
        in_flight = sent - sum(slot.ended for place, slot in self.slots.items() if place <= last)
        expected = sent / ((last + 1) * width_s) * first.mean_s
        slower_s = final.mean_s - first.mean_s
        slope, surplus = slower_s / (2 * third * width_s), (in_flight - expected) / sent
        by_latency = slope > GROWTH and slower_s > _noise_s(first, final)
        by_queue = surplus > GROWTH + 2 * math.sqrt(expected + 1) / sent
        return Backlog(
            answered_per_s=self._answered_per_s(last, width_s),
            in_flight_at_end=in_flight,
            expected_in_flight=expected,
            first_third_ms=first.mean_s * 1000,
            last_third_ms=final.mean_s * 1000,
            left_behind=max(0.0, slope, surplus),
            grows=by_latency or by_queue,
        )

    def _slot(self, at_s: float) -> _Slot:
        return self.slots.setdefault(int(max(0.0, at_s) / SLOT_S) >> self.doublings, _Slot())

    def _double(self) -> None:
        slots: dict[int, _Slot] = {}
        for place, slot in self.slots.items():
            slots.setdefault(place >> 1, _Slot()).merge(slot)
        self.slots, self.doublings = slots, self.doublings + 1

    def _latency(self, begin: float, end: float) -> "_LatencySum":
        within = [slot for place, slot in self.slots.items() if begin <= place < end]
        return _LatencySum(
            sum(slot.measured for slot in within),
            sum(slot.latency_s for slot in within),
            sum(slot.latency_squares for slot in within),
        )

    def _answered_per_s(self, last: int, width_s: float) -> float:
        # The slope of all answers over time: where the first and the last fall hardly matters.
        known = sorted((place, slot.answered) for place, slot in self.slots.items() if slot.answered and place <= last)
        return _slope([place * width_s for place, _ in known], [count for _, count in known])


@dataclass(frozen=True, slots=True)
class _LatencySum:
    count: int
    sum_s: float
    squares: float

    @property
    def mean_s(self) -> float:
        return self.sum_s / self.count

    @property
    def variance_of_mean(self) -> float:
        spread = max(0.0, self.squares - self.sum_s * self.mean_s)
        return spread / (self.count - 1) / self.count


def _noise_s(first: _LatencySum, final: _LatencySum) -> float:
    """Return the half width of the confidence interval of a difference of two means."""
    degrees = min(first.count, final.count) - 1
    return t_quantile(LEVEL, degrees) * math.sqrt(first.variance_of_mean + final.variance_of_mean)


def _slope(times_s: Sequence[float], counts: Sequence[int]) -> float:
    """Return answers per second: the least-squares slope of the count of answers over time."""
    if len(times_s) < 2:
        return 0.0
    times, weights = np.array(times_s), np.array(counts, dtype=float)
    ranks = weights.cumsum() - (weights - 1) / 2
    mean_time, mean_rank = np.average(times, weights=weights), np.average(ranks, weights=weights)
    spread = (weights * (times - mean_time) ** 2).sum()
    return float((weights * (times - mean_time) * (ranks - mean_rank)).sum() / spread)
