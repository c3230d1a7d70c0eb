"""Break-even volume of own engines in steps of replicas, and the payback time of training."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

DAY_S = 86_400
_STEPS_SHOWN = 8


@dataclass(frozen=True)
class Fleet:
    """Own engines: price and capacity of a replica."""

    usd_per_hour: Decimal
    capacity_per_s: Decimal | None
    """Requests per second within the latency limits; None when not measured: one replica is then enough."""
    peak_to_mean: Decimal = Decimal(1)
    """Peak load over mean load: replicas are sized for the peak."""
    min_replicas: int = 1
    overhead_usd_per_day: Decimal = Decimal(0)

    @property
    def requests_per_day(self) -> Decimal | None:
        """Mean requests per day that one replica takes, given the peaks; None when not measured."""
        return None if self.capacity_per_s is None else self.capacity_per_s * DAY_S / self.peak_to_mean

    def replicas(self, requests_per_day: Decimal) -> int:
        """Return the number of replicas for a volume."""
        if self.requests_per_day is None:
            return self.min_replicas
        needed = (requests_per_day / self.requests_per_day).to_integral_value(ROUND_CEILING)
        return max(self.min_replicas, int(needed))

    def usd_per_day(self, replicas: int) -> Decimal:
        """Return the daily cost of a number of replicas, overhead included."""
        return replicas * 24 * self.usd_per_hour + self.overhead_usd_per_day

    def floor_usd_per_request(self) -> Decimal | None:
        """Return the cost of a request on a saturated replica; None when the capacity is not measured."""
        return None if self.capacity_per_s is None else self.usd_per_hour / 3600 / self.capacity_per_s


@dataclass(frozen=True, slots=True)
class ReplicaStep:
    """One number of replicas: it pays from `pays_from` requests a day up to its capacity `up_to`."""

    replicas: int
    usd_per_day: Decimal
    pays_from: Decimal | None
    """None when it does not pay even at capacity."""
    up_to: Decimal | None
    """None when the capacity is not measured."""


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Break-even against one price per request."""

    requests_per_day: Decimal | None
    """Lowest volume that pays; None means never."""
    share_of_capacity: Decimal | None
    """That volume over the daily capacity of one replica."""
    for_good_from: Decimal | None
    """Volume beyond which every larger volume pays too; None when there is none, or it is unknown."""
    steps: tuple[ReplicaStep, ...]
    reason: str


def break_even(fleet: Fleet, usd_per_request: Decimal) -> BreakEven:
    """Compare a fleet with a price per request of another provider."""
    if usd_per_request <= 0:
        return BreakEven(None, None, None, (), "never: elsewhere the requests cost nothing")
    steps = tuple(_steps(fleet, usd_per_request))
    first = next((step.pays_from for step in steps if step.pays_from is not None), None)
    capacity = fleet.requests_per_day
    if first is None:
        return BreakEven(
            None, None, None, steps, "never: a full replica costs more than its requests would cost elsewhere"
        )
    share = None if capacity is None else first / capacity
    reason = "" if capacity is not None else "the capacity is not measured, so one replica is taken to be enough"
    return BreakEven(first, share, _pays_for_good_from(fleet, usd_per_request), steps, reason)


def _steps(fleet: Fleet, usd_per_request: Decimal) -> Iterator[ReplicaStep]:
    capacity = fleet.requests_per_day
    if capacity is None:
        usd = fleet.usd_per_day(fleet.min_replicas)
        yield ReplicaStep(fleet.min_replicas, usd, usd / usd_per_request, None)
        return
    for replicas in range(fleet.min_replicas, fleet.min_replicas + _step_count(fleet, usd_per_request)):
        usd, up_to = fleet.usd_per_day(replicas), replicas * capacity
        least = 0 if replicas == fleet.min_replicas else (replicas - 1) * capacity
        pays_from = max(usd / usd_per_request, Decimal(least))
        yield ReplicaStep(replicas, usd, pays_from if pays_from <= up_to else None, up_to)


def _step_count(fleet: Fleet, usd_per_request: Decimal) -> int:
    """Return enough steps to include the first that pays, if any does."""
    gain = usd_per_request * (fleet.requests_per_day or 0) - 24 * fleet.usd_per_hour
    if gain <= 0:
        return _STEPS_SHOWN
    first = int((fleet.overhead_usd_per_day / gain).to_integral_value(ROUND_CEILING))
    return max(_STEPS_SHOWN, min(first - fleet.min_replicas + 2, 10_000))


def _pays_for_good_from(fleet: Fleet, usd_per_request: Decimal) -> Decimal | None:
    """Return the volume from which a full step saves more than the next replica costs."""
    capacity = fleet.requests_per_day
    if capacity is None:
        return None
    replica = 24 * fleet.usd_per_hour
    gain = usd_per_request * capacity - replica
    if gain <= 0:
        return None
    full = int(((replica + fleet.overhead_usd_per_day) / gain).to_integral_value(ROUND_CEILING))
    # From the step after `full` full ones on; in that step, where it begins to pay.
    step = max(full, fleet.min_replicas)
    begin = fleet.usd_per_day(step) / usd_per_request
    return max(begin, (step - 1) * capacity if step > fleet.min_replicas else Decimal(0))


def payback_days(investment_usd: Decimal, saving_usd_per_day: Decimal) -> Decimal | None:
    """Return the days after which savings cover the investment; None when nothing is saved."""
    return None if saving_usd_per_day <= 0 else max(investment_usd, Decimal(0)) / saving_usd_per_day
