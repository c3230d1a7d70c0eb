"""Weights: how much of an engine's time a token of each kind takes, stated or measured on this very engine."""

from dataclasses import dataclass

from gateway.metering.usage_queries import Sums

PS_PER_MS = 10**9
STATED = "stated: a cached, an uncached and a generated token weigh 1 : 10 : 40; `turntable costs calibrate` measures"


@dataclass(frozen=True, slots=True)
class Weights:
    """Work per token. Measured weights are picoseconds of engine time; stated ones are only ratios."""

    prompt: int = 10
    cached: int = 1
    output: int = 40
    is_measured: bool = False
    basis: str = STATED

    def work(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """The work of so many tokens; `prompt_tokens` includes `cached_tokens`."""
        return self.prompt * (prompt_tokens - cached_tokens) + self.cached * cached_tokens + self.output * output_tokens

    def of(self, sums: Sums) -> int:
        """The work of summed requests."""
        return self.work(sums.prompt_tokens, sums.cached_tokens, sums.completion_tokens)


ASSUMED = Weights(
    prompt=PS_PER_MS * 5 // 2,
    cached=PS_PER_MS // 4,
    output=25 * PS_PER_MS,
    basis="assumed until the first traffic: 0.25, 2.5 and 25 ms of engine time per cached, uncached and generated "
    "token, as if every request had a slow engine to itself",
)
"""What a token takes before anything was measured or learnt: rather too much, so that no budget is overdrawn."""
