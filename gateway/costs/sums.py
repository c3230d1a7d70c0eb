"""Sums of usage: requests and tokens of one period by who used them, and adding them up."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.ledger import OWN_KEY, SHADOW_KEY

SHORT_PROMPT = 16_000
"""Requests with prompts up to this many tokens are summed; longer ones are kept apart by length, for tiered prices."""
WHO = ("engine", "adapter", "tenant", "key_id", "long_prompt")
COUNTS = ("requests", "unsettled", "prompt_tokens", "cached_tokens", "completion_tokens", "unanswered")
OWN_KEYS = frozenset({OWN_KEY, SHADOW_KEY})
"""Of what no client asked for: the gateway's own requests, and mirrored ones."""
Span = tuple[int, int]
"""From (inclusive) to (exclusive), in microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Requests and tokens of one period (an hour or a day, counted from the epoch), engine, adapter, tenant and key.

    `adapter` is empty for the base, `engine` for requests that reached none. `long_prompt` is 0, or the length that all
    prompts summed here have.
    """

    period: int
    engine: str
    adapter: str
    tenant: str
    key_id: str
    long_prompt: int
    requests: int
    unsettled: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    unanswered: int = 0
    """Settled without an answer: refused, or failed."""

    @property
    def answered(self) -> int:
        """Requests that were answered, also those whose client left in the middle."""
        return self.requests - self.unsettled - self.unanswered


def clients_of(sums: Iterable[Sums]) -> list[Sums]:
    """What clients asked for, without the gateway's own requests and mirrored ones."""
    return [one for one in sums if one.key_id not in OWN_KEYS]


def merged(sums: Iterable[Sums]) -> list[Sums]:
    """Sums of the same keys added up."""
    found: dict[tuple[int, str, str, str, str, int], Sums] = {}
    for one in sums:
        key = (one.period, one.engine, one.adapter, one.tenant, one.key_id, one.long_prompt)
        before = found.get(key)
        found[key] = one if before is None else added(before, one)
    return list(found.values())


def added(one: Sums, other: Sums) -> Sums:
    """Two sums as one, under the keys of the first."""
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in COUNTS})
