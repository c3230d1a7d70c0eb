"""What one request cost, told when it ends: its work at the present price of work, without any part of idle time."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from gateway.core import Usage
from gateway.costs.weights import ASSUMED, Weights
from gateway.money import usd_exact

HEADER = b"x-turntable-cost"
"""A client asks for the cost of its request with this header, whatever its value."""
CALIBRATED, RECENT, UNKNOWN = "calibrated", "recent", "unpriced"
AT_FIRST = "assumed"
_PS_PER_HOUR = 3_600 * 10**12


@dataclass(frozen=True, slots=True)
class WorkPrice:
    """Nano-USD per unit of work; None when it is not known yet."""

    weights: Weights = field(default_factory=Weights)
    nano_usd: Fraction | None = None
    basis: str = UNKNOWN
    version: str | None = field(init=False, default=None, compare=False)
    """The same for the same price, and for no other; None when it is not known."""

    def __post_init__(self) -> None:
        if self.nano_usd is not None:
            digest = hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()
            object.__setattr__(self, "version", f"{self.basis}-{digest[:16]}")

    def document(self) -> dict[str, Any]:
        """All that the cost of a request is computed from, as JSON."""
        per_work = None if self.nano_usd is None else str(self.nano_usd)
        return {"basis": self.basis, "weights": asdict(self.weights), "nano_usd_per_work": per_work}

    @property
    def is_learnt(self) -> bool:
        """Whether it rests on what this engine really did."""
        return self.basis in (CALIBRATED, RECENT)

    @classmethod
    def calibrated(cls, weights: Weights, nano_usd_per_hour: int) -> "WorkPrice":
        """From measured weights: picoseconds of an engine, at its price."""
        return cls(weights, Fraction(nano_usd_per_hour, _PS_PER_HOUR), CALIBRATED)

    @classmethod
    def assumed(cls, nano_usd_per_hour: int) -> "WorkPrice":
        """From the price of an hour alone, before anything is known of this engine's pace: rather too high."""
        return cls(ASSUMED, Fraction(nano_usd_per_hour, _PS_PER_HOUR), AT_FIRST)

    @classmethod
    def recent(cls, weights: Weights, active_nano_usd: int, work: int) -> "WorkPrice":
        """From what work cost lately, while engines were busy: the pace of live traffic."""
        return cls(weights, Fraction(active_nano_usd, work), RECENT) if work else cls(weights)

    def cost_nano_usd(self, usage: Usage) -> int | None:
        """What a request with this usage cost."""
        if self.nano_usd is None:
            return None
        work = self.weights.work(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        return (work * self.nano_usd.numerator + self.nano_usd.denominator // 2) // self.nano_usd.denominator

    def most_nano_usd(self, prompt_tokens: int, output_tokens: int) -> int | None:
        """The most that a request with so many tokens can cost, whatever of its prompt is cached."""
        cached = prompt_tokens if self.weights.cached > self.weights.prompt else 0
        return self.cost_nano_usd(Usage(prompt_tokens, output_tokens, cached))

    def headers(self, cost_nano_usd: int | None) -> list[tuple[bytes, bytes]]:
        """What a client is told that asked for the cost of its request."""
        if cost_nano_usd is None:
            return [(b"x-turntable-cost-basis", UNKNOWN.encode())]
        usd = usd_exact(cost_nano_usd).encode()
        return [(b"x-turntable-cost-usd", usd), (b"x-turntable-cost-basis", self.basis.encode())]


class RequestPrices:
    """The price of work in force; set from the background, read by every request."""

    def __init__(self) -> None:
        self.price = WorkPrice()
