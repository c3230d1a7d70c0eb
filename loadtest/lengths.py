"""How long prompts and answers are: `128`, `uniform:16:256` or `lognormal:MEAN:CV`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loadtest.errors import InvalidWorkloadError

FORMS = "128, uniform:16:256 or lognormal:128:0.8 (mean and coefficient of variation)"


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of whole numbers of at least 1."""

    kind: str
    first: float
    second: float

    @classmethod
    def parse(cls, text: str, option: str) -> "Lengths":
        """The distribution that `text` names; InvalidWorkloadError names the option."""
        kind, *numbers = text.split(":") if ":" in text else ("fixed", text)
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            values = []
        if kind not in CHECKS or not all(map(math.isfinite, values)) or not CHECKS[kind](values):
            raise InvalidWorkloadError(f"{option} must look like {FORMS}, not {text!r}.")
        return cls(kind, values[0], values[-1])

    def draw(self, rng: np.random.Generator) -> int:
        """One length."""
        match self.kind:
            case "uniform":
                return int(rng.integers(int(self.first), int(self.second) + 1))
            case "lognormal":
                variance = math.log1p(self.second**2)
                return max(1, round(rng.lognormal(math.log(self.first) - variance / 2, math.sqrt(variance))))
        return int(self.first)


CHECKS: dict[str, Callable[[list[float]], bool]] = {
    "fixed": lambda values: len(values) == 1 and values[0] >= 1,
    "uniform": lambda values: len(values) == 2 and 1 <= values[0] <= values[1],
    "lognormal": lambda values: len(values) == 2 and values[0] >= 1 and values[1] > 0,
}
