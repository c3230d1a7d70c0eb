"""Parity: does the engine say about an adapter's held-out tokens what the trainer said, for base and adapter?

The trainer leaves log-probabilities of conversations (parity.json). Here the engine is asked for the same ones: each is
an ordinary completion of one token whose prompt is everything before it and whose only allowed token is the learnt
one, because log-probabilities of prompts end the engine beside other requests (docs/decisions/0006).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.parity_file import ParityRow
from gateway.engine.parity_verdict import ParityResult, judge
from gateway.engine.probe import Complete
from gateway.errors import EngineFailedError

_MOST_TOKENS = 128
_PROMPTS_PER_REQUEST = 16
_REQUESTS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class _Token:
    prompt: Sequence[int]
    learnt: int
    base: float
    adapter: float


async def measure_parity(complete: Complete, base: str, adapter: str, rows: Sequence[ParityRow]) -> ParityResult | None:
    """Compare engine and trainer by the engine's names of base and adapter; raises what `complete` raises.

    None when there is nothing to compare: no learnt token, or a base that completes no texts.
    """
    tokens = _spread(rows)
    said_of_base = await _ask(complete, base, tokens) if tokens else None
    if said_of_base is None:
        return None
    if not any(said_of_base):
        raise EngineFailedError(
            "The engine reports log-probabilities after its sampling rules; start it with --logprobs-mode raw_logprobs."
        )
    said_of_adapter = await _ask(complete, adapter, tokens)
    if said_of_adapter is None:
        raise EngineFailedError(f"The engine answers the base's completions and not those of {adapter}.")
    return judge([t.base for t in tokens], [t.adapter for t in tokens], said_of_base, said_of_adapter)


def _spread(rows: Sequence[ParityRow]) -> list[_Token]:
    """At most `_MOST_TOKENS` learnt tokens, evenly over all rows."""
    tokens = [
        _Token(row.input_ids[:position], row.input_ids[position], base, adapter)
        for row in rows
        for position, base, adapter in zip(row.positions, row.base, row.adapter, strict=True)
    ]
    step = max(1.0, len(tokens) / _MOST_TOKENS)
    return [tokens[int(number * step)] for number in range(min(len(tokens), _MOST_TOKENS))]


async def _ask(complete: Complete, model: str, tokens: Sequence[_Token]) -> list[float] | None:
    """The engine's log-probability of each token; None when the model completes no texts."""
    said, gate = dict[int, float](), asyncio.Semaphore(_REQUESTS_AT_ONCE)
    numbers: dict[int, list[int]] = {}
    for number, token in enumerate(tokens):
        numbers.setdefault(token.learnt, []).append(number)

    async def ask(learnt: int, some: Sequence[int]) -> bool:
        body = {
            "model": model,
            "prompt": [tokens[number].prompt for number in some],
            "allowed_token_ids": [learnt],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 0,
            "ignore_eos": True,
        }
        async with gate:
            answer = await complete(body)
        for choice in answer.get("choices", ()):
            said[some[choice["index"]]] = choice["logprobs"]["token_logprobs"][0]
        return "choices" in answer

    batches = [
        (learnt, of_token[start : start + _PROMPTS_PER_REQUEST])
        for learnt, of_token in numbers.items()
        for start in range(0, len(of_token), _PROMPTS_PER_REQUEST)
    ]
    if not all(await asyncio.gather(*(ask(learnt, some) for learnt, some in batches))):
        return None
    return [said[number] for number in range(len(tokens))]
