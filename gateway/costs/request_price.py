"""The price of one request: token weights (work per token) times the price of a unit of work; no share of idle time."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from gateway.core import Usage
from gateway.metering.usage_queries import UsageSums
from gateway.money import usd_exact

HEADER = b"x-turntable-cost"
"""Request header, of any value, by which a client asks for the cost of its request."""
CALIBRATED, RECENT, ASSUMED, UNPRICED = "calibrated", "recent", "assumed", "unpriced"
"""What a price is based on: measured weights, recent traffic, nothing yet but the price of an hour, no price at all."""
PS_PER_MS = 10**9
_PS_PER_HOUR = 3_600 * 10**12
_STATED = "stated: a cached, an uncached and a generated token weigh 1 : 10 : 40; `turntable costs calibrate` measures"


@dataclass(frozen=True, slots=True)
class Weights:
    """Work per token: picoseconds of engine time where measured, otherwise only the ratio between kinds of tokens."""

    prompt: int = 10
    cached: int = 1
    output: int = 40
    is_measured: bool = False
    basis: str = _STATED

    def work(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """Return the work of these tokens; `prompt_tokens` includes `cached_tokens`."""
        return self.prompt * (prompt_tokens - cached_tokens) + self.cached * cached_tokens + self.output * output_tokens

    def work_of(self, sums: UsageSums) -> int:
        """Return the work of summed requests."""
        return self.work(sums.prompt_tokens, sums.cached_tokens, sums.completion_tokens)


ASSUMED_WEIGHTS = Weights(
    prompt=PS_PER_MS * 5 // 2,
    cached=PS_PER_MS // 4,
    output=25 * PS_PER_MS,
    basis="assumed until the first traffic: 0.25, 2.5 and 25 ms of engine time per cached, uncached and generated "
    "token, as if every request had a slow engine to itself",
)
"""Weights before the first traffic; too high rather than too low, so that no budget is overdrawn."""


@dataclass(frozen=True, slots=True)
class WorkPrice:
    """Nano-USD per unit of work; None while it is unknown."""

    weights: Weights = field(default_factory=Weights)
    nano_usd: Fraction | None = None
    basis: str = UNPRICED
    version: str | None = field(init=False, default=None, compare=False)
    """Digest of `document`: equal for equal prices only; None while the price is unknown."""

    def __post_init__(self) -> None:
        if self.nano_usd is not None:
            digest = hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()
            object.__setattr__(self, "version", f"{self.basis}-{digest[:16]}")

    def document(self) -> dict[str, Any]:
        """Return everything that the cost of a request is computed from, as JSON."""
        per_work = None if self.nano_usd is None else str(self.nano_usd)
        return {"basis": self.basis, "weights": asdict(self.weights), "nano_usd_per_work": per_work}

    @property
    def is_observed(self) -> bool:
        """Whether the price comes from measurements or traffic of this engine."""
        return self.basis in (CALIBRATED, RECENT)

    @classmethod
    def calibrated(cls, weights: Weights, nano_usd_per_hour: int) -> "WorkPrice":
        """Price picoseconds of engine time (measured weights) by the engine's hour."""
        return cls(weights, Fraction(nano_usd_per_hour, _PS_PER_HOUR), CALIBRATED)

    @classmethod
    def assumed(cls, nano_usd_per_hour: int) -> "WorkPrice":
        """Price `ASSUMED_WEIGHTS` by the engine's hour, before anything is known about its speed."""
        return cls(ASSUMED_WEIGHTS, Fraction(nano_usd_per_hour, _PS_PER_HOUR), ASSUMED)

    @classmethod
    def recent(cls, weights: Weights, active_nano_usd: int, work: int) -> "WorkPrice":
        """Divide the cost of recent busy time by the work done in it; unpriced without any work."""
        return cls(weights, Fraction(active_nano_usd, work), RECENT) if work else cls(weights)

    def cost_nano_usd(self, usage: Usage) -> int | None:
        """Return the cost of a request with this usage, half up."""
        if self.nano_usd is None:
            return None
        work = self.weights.work(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        return (work * self.nano_usd.numerator + self.nano_usd.denominator // 2) // self.nano_usd.denominator

    def most_nano_usd(self, prompt_tokens: int, output_tokens: int) -> int | None:
        """Return the upper bound of a request's cost, however much of its prompt is cached."""
        cached = prompt_tokens if self.weights.cached > self.weights.prompt else 0
        return self.cost_nano_usd(Usage(prompt_tokens, output_tokens, cached))

    def headers(self, cost_nano_usd: int | None) -> list[tuple[bytes, bytes]]:
        """Return the response headers for a client that asked for the cost of its request."""
        if cost_nano_usd is None:
            return [(b"x-turntable-cost-basis", UNPRICED.encode())]
        usd = usd_exact(cost_nano_usd).encode()
        return [(b"x-turntable-cost-usd", usd), (b"x-turntable-cost-basis", self.basis.encode())]


class RequestPrices:
    """Holds the work price in force: set by `CostRefresher`, read by every request."""

    def __init__(self) -> None:
        self.price = WorkPrice()
