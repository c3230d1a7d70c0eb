"""Made-up prompts of a wished length: random words, conversations that grow, and the replayed prompts of a trace.

Lengths of prompts are counted in words of this vocabulary; how many tokens they are is for the server's tokenizer to
say, and the report shows its usage. Assistant turns of a conversation are made up too, so that every run sends the
same prefixes whatever the server answers.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from loadtest.arrivals import Seed
from loadtest.traces import TraceRow
from loadtest.workload import Ask, Lengths, Messages

VOCABULARY = (
    "order",
    "parcel",
    "refund",
    "account",
    "delivery",
    "invoice",
    "address",
    "screen",
    "battery",
    "letter",
    "window",
    "garden",
    "number",
    "winter",
    "river",
    "market",
    "teacher",
    "yellow",
    "silver",
    "button",
    "ticket",
    "morning",
    "answer",
    "paper",
    "kitchen",
    "engine",
    "bridge",
    "summer",
    "customer",
)
BLOCK_WORDS = 512


def words(rng: np.random.Generator, count: int) -> str:
    """A text of so many random words."""
    return " ".join([VOCABULARY[place] for place in rng.integers(len(VOCABULARY), size=count).tolist()])


def random_texts(prompt: Lengths, output: Lengths | None, max_tokens: int, prefix: str, seed: Seed) -> Iterator[Ask]:
    """Unrelated prompts behind a shared system prompt (when `prefix` has any words), without end."""
    rng = np.random.default_rng(seed)
    while True:
        messages = [*_system(prefix), {"role": "user", "content": words(rng, prompt.draw(rng))}]
        yield _asked(messages, output, max_tokens, rng)


def conversations(
    turns: int, at_a_time: int, prompt: Lengths, output: Lengths | None, max_tokens: int, prefix: str, seed: Seed
) -> Iterator[Ask]:
    """Conversations in turn, each `turns` requests long, every request with all that was said before; without end."""
    rng = np.random.default_rng(seed)
    running: deque[Messages] = deque()
    while True:
        history = running.popleft() if len(running) >= at_a_time else _system(prefix)
        history = [*history, {"role": "user", "content": words(rng, prompt.draw(rng))}]
        ask = _asked(history, output, max_tokens, rng)
        yield ask
        if sum(message["role"] == "user" for message in history) >= turns:
            history = _system(prefix)
        else:
            history = [*history, {"role": "assistant", "content": words(rng, ask.max_tokens)}]
        running.append(history)


def replayed(rows: Sequence[TraceRow], seed: Seed, speedup: float) -> Iterator[Ask]:
    """The requests of a trace, `speedup` times as fast: prompts of its lengths, answers of exactly its lengths."""
    rng = np.random.default_rng(seed)
    key = rng.integers(1 << 32, size=4).tolist()
    for row in rows:
        text = _blocks(row, key) if row.blocks else words(rng, row.prompt_tokens)
        messages: Messages = [{"role": "user", "content": text}]
        yield Ask(messages, row.output_tokens, exact=True, model=row.adapter, at_s=row.at_s / speedup)


def _asked(messages: Messages, output: Lengths | None, max_tokens: int, rng: np.random.Generator) -> Ask:
    return Ask(messages, output.draw(rng), exact=True) if output else Ask(messages, max_tokens)


def _system(prefix: str) -> Messages:
    return [{"role": "system", "content": prefix}] if prefix else []


def _blocks(row: TraceRow, key: list[int]) -> str:
    # Text is a function of the block's id, so requests that shared a prefix in the trace share it here.
    parts = []
    left = row.prompt_tokens
    for block in row.blocks:
        text = words(np.random.default_rng([*key, abs(block)]), BLOCK_WORDS).split()
        parts += text[: min(left, BLOCK_WORDS)]
        left -= BLOCK_WORDS
        if left <= 0:
            break
    return " ".join(parts)
