"""A token bucket in whole numbers: a minute's worth fits in, and it refills continuously.

What was taken is counted in units of 1/60,000,000,000, so that a limit per minute times nanoseconds is a whole number:
a bucket never drifts, and what it says remains is exactly what it gives.
"""

from dataclasses import dataclass

_UNIT = 60 * 10**9


@dataclass(slots=True)
class Bucket:
    """What was taken from a bucket and has not come back; times are nanoseconds of a clock that never goes back."""

    taken: int = 0
    at_ns: int = 0

    def remaining(self, capacity: int, per_minute: int, now_ns: int) -> int:
        """How many can be taken now; negative while a debt is paid off."""
        self._refill(per_minute, now_ns)
        return capacity - -(-self.taken // _UNIT)

    def take(self, count: int, per_minute: int, now_ns: int) -> None:
        """Take so many, or give back what was not used when negative; more than is there makes a debt."""
        self._refill(per_minute, now_ns)
        self.taken = max(0, self.taken + count * _UNIT)

    def wait_ns(self, count: int, capacity: int, per_minute: int) -> int:
        """Nanoseconds until `count` can be taken, if nobody takes any before; 0 is now."""
        missing = self.taken + (count - capacity) * _UNIT
        return max(0, -(-missing // per_minute))

    def full_ns(self, per_minute: int) -> int:
        """Nanoseconds until nothing is missing."""
        return -(-self.taken // per_minute)

    def _refill(self, per_minute: int, now_ns: int) -> None:
        if now_ns > self.at_ns:
            self.taken = max(0, self.taken - per_minute * (now_ns - self.at_ns))
            self.at_ns = now_ns
