"""Prompts and answer lengths of a load test: built-in, from a file, synthetic, or replayed from a trace.

Lengths are `128`, `uniform:16:256` or `lognormal:MEAN:CV`. Lengths of synthetic prompts are in words of a small
vocabulary; the report shows the server's usage, which counts them in tokens. Assistant turns of a conversation are
synthetic too, so every run sends the same prefixes whatever the server answers.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from loadtest.errors import InvalidWorkloadError
from loadtest.traces import TraceRow

Seed = int | np.random.SeedSequence
FORMS = "128, uniform:16:256 or lognormal:128:0.8 (mean and coefficient of variation)"

CHECKS: dict[str, Callable[[list[float]], bool]] = {
    "fixed": lambda values: len(values) == 1 and values[0] >= 1,
    "uniform": lambda values: len(values) == 2 and 1 <= values[0] <= values[1],
    "lognormal": lambda values: len(values) == 2 and values[0] >= 1 and values[1] > 0,
}
Messages = list[dict[str, Any]]
BUILT_IN_PROMPTS = (
    "My parcel was due on Monday and the tracking page has not moved since. Where is it?",
    "I was charged twice for the same order last night. Please refund one of the payments.",
    "The app closes by itself whenever I open the settings on my tablet.",
    "How do I change the e-mail address of my account?",
    "The blender arrived with a cracked jug. Can you send me a new one?",
    "I cannot log in: the code from the text message is always called expired.",
    "Do you deliver to the islands, and what does it cost?",
    "Please cancel my subscription at the end of this month.",
)
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


@dataclass(frozen=True, slots=True)
class Lengths:
    """Distribution of lengths: whole numbers of at least 1."""

    kind: str
    first: float
    second: float

    @classmethod
    def parse(cls, text: str, option: str) -> "Lengths":
        """Parse a distribution; raises InvalidWorkloadError that names the option."""
        kind, *numbers = text.split(":") if ":" in text else ("fixed", text)
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            values = []
        if kind not in CHECKS or not all(map(math.isfinite, values)) or not CHECKS[kind](values):
            raise InvalidWorkloadError(f"{option} must look like {FORMS}, not {text!r}.")
        return cls(kind, values[0], values[-1])

    def draw(self, rng: np.random.Generator) -> int:
        """Draw one length."""
        match self.kind:
            case "uniform":
                return int(rng.integers(int(self.first), int(self.second) + 1))
            case "lognormal":
                variance = math.log1p(self.second**2)
                return max(1, round(rng.lognormal(math.log(self.first) - variance / 2, math.sqrt(variance))))
        return int(self.first)


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """One request before it is sent; `index` counts from 0 in sending order."""

    index: int
    model: str
    messages: Messages
    max_tokens: int
    exact: bool = False
    """Ask the server to ignore the end of text, so that the answer has `max_tokens` tokens (a vLLM extension)."""


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """A prompt with its answer length, before a model is assigned; `model` when the source names one."""

    messages: Messages
    max_tokens: int
    exact: bool = False
    model: str | None = None
    at_s: float | None = None
    """Send time in a trace."""


def built_in_prompts() -> list[Messages]:
    """Return the built-in prompts: short customer messages."""
    return [[{"role": "user", "content": text}] for text in BUILT_IN_PROMPTS]


def read_prompts(path: Path) -> list[Messages]:
    """Read prompts from a JSONL file with `messages` (a final assistant turn is left out) or `prompt`."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidWorkloadError(f"{path}: cannot be read ({error.strerror}).") from error
    prompts = [_prompt(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise InvalidWorkloadError(f"{path}: has no prompts; give at least one JSON line.")
    return prompts


def _prompt(line: bytes, where: str) -> Messages:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidWorkloadError(f"{where}: not JSON ({error}).") from None
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        return [{"role": "user", "content": row["prompt"]}]
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidWorkloadError(f'{where}: needs "messages" (a list of objects) or "prompt" (a text).')
    prompt_messages = messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages
    if not prompt_messages:
        raise InvalidWorkloadError(f"{where}: has no message to answer.")
    return prompt_messages


def drawn_prompts(prompts: Sequence[Messages], max_tokens: int, seed: np.random.SeedSequence) -> Iterator[PromptSpec]:
    """Yield prompts drawn at random, verbatim, without end."""
    asks = [PromptSpec(prompt, max_tokens) for prompt in prompts]
    rng = np.random.default_rng(seed)
    while True:
        for place in rng.integers(len(asks), size=1024).tolist():
            yield asks[place]


def fresh_prompts(max_tokens: int, seed: np.random.SeedSequence) -> Iterator[PromptSpec]:
    """Yield the built-in prompts at random, each behind a unique number, without end.

    The number comes first, so that no prefix cache has seen the prompt before.
    """
    rng = np.random.default_rng(seed)
    while True:
        places = rng.integers(len(BUILT_IN_PROMPTS), size=1024).tolist()
        for place, number in zip(places, rng.integers(10**8, 10**9, size=1024).tolist(), strict=True):
            yield PromptSpec([{"role": "user", "content": f"{number}: {BUILT_IN_PROMPTS[place]}"}], max_tokens)


def assign_models(asks: Iterator[PromptSpec], models: Iterator[str], requests: int) -> Iterator[RequestSpec]:
    """Yield the first `requests` prompts with their model: the one they name, else the next one of `models`."""
    for index, ask in zip(range(requests), asks, strict=False):
        yield RequestSpec(index, ask.model or next(models), ask.messages, ask.max_tokens, ask.exact)


def random_words(rng: np.random.Generator, count: int) -> str:
    """Return a text of `count` random words."""
    return " ".join([VOCABULARY[place] for place in rng.integers(len(VOCABULARY), size=count).tolist()])


def random_texts(
    prompt: Lengths, output: Lengths | None, max_tokens: int, prefix: str, seed: Seed
) -> Iterator[PromptSpec]:
    """Yield unrelated prompts behind a shared system prompt (unless `prefix` is empty), without end."""
    rng = np.random.default_rng(seed)
    while True:
        messages = [*_system(prefix), {"role": "user", "content": random_words(rng, prompt.draw(rng))}]
        yield _asked(messages, output, max_tokens, rng)


def conversations(
    turns: int, at_a_time: int, prompt: Lengths, output: Lengths | None, max_tokens: int, prefix: str, seed: Seed
) -> Iterator[PromptSpec]:
    """Yield the requests of interleaved conversations, each `turns` long with its whole history, without end."""
    rng = np.random.default_rng(seed)
    running: deque[Messages] = deque()
    while True:
        history = running.popleft() if len(running) >= at_a_time else _system(prefix)
        history = [*history, {"role": "user", "content": random_words(rng, prompt.draw(rng))}]
        ask = _asked(history, output, max_tokens, rng)
        yield ask
        if sum(message["role"] == "user" for message in history) >= turns:
            history = _system(prefix)
        else:
            history = [*history, {"role": "assistant", "content": random_words(rng, ask.max_tokens)}]
        running.append(history)


def replay_trace(rows: Sequence[TraceRow], seed: Seed, speedup: float) -> Iterator[PromptSpec]:
    """Yield the requests of a trace, `speedup` times as fast: prompts and answers of exactly its lengths."""
    rng = np.random.default_rng(seed)
    key = rng.integers(1 << 32, size=4).tolist()
    for row in rows:
        text = _blocks(row, key) if row.blocks else random_words(rng, row.prompt_tokens)
        messages: Messages = [{"role": "user", "content": text}]
        yield PromptSpec(messages, row.output_tokens, exact=True, model=row.adapter, at_s=row.at_s / speedup)


def _asked(messages: Messages, output: Lengths | None, max_tokens: int, rng: np.random.Generator) -> PromptSpec:
    return PromptSpec(messages, output.draw(rng), exact=True) if output else PromptSpec(messages, max_tokens)


def _system(prefix: str) -> Messages:
    return [{"role": "system", "content": prefix}] if prefix else []


def _blocks(row: TraceRow, key: list[int]) -> str:
    # Text is a function of the block's id, so requests that shared a prefix in the trace share it here.
    parts = []
    left = row.prompt_tokens
    for block in row.blocks:
        text = random_words(np.random.default_rng([*key, abs(block)]), BLOCK_WORDS).split()
        parts += text[: min(left, BLOCK_WORDS)]
        left -= BLOCK_WORDS
        if left <= 0:
            break
    return " ".join(parts)
