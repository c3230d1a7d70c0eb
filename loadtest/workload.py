"""Made-up prompts of a wished length: random words, conversations that grow, and the replayed prompts of a trace.

Lengths of prompts are counted in words of this vocabulary; how many tokens they are is for the server's tokenizer to
say, and the report shows its usage. Assistant turns of a conversation are made up too, so that every run sends the
same prefixes whatever the server answers.

How long prompts and answers are: `128`, `uniform:16:256` or `lognormal:MEAN:CV`.

What is asked for: prompts and their lengths, and which model gets which request, in sending order.
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
class Ask:
    """What one request says, before it is known which model gets it; `model` when the source names one."""

    messages: Messages
    max_tokens: int
    exact: bool = False
    model: str | None = None
    at_s: float | None = None
    """When a trace sent it."""


def built_in_prompts() -> list[Messages]:
    """Short customer messages, for when no prompt file is given."""
    return [[{"role": "user", "content": text}] for text in BUILT_IN_PROMPTS]


def read_prompts(path: Path) -> list[Messages]:
    """The prompts of a JSONL file whose lines hold `messages` (a final assistant turn is left out) or `prompt`."""
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
    asked = messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages
    if not asked:
        raise InvalidWorkloadError(f"{where}: has no message to answer.")
    return asked


def drawn_prompts(prompts: Sequence[Messages], max_tokens: int, seed: np.random.SeedSequence) -> Iterator[Ask]:
    """Prompts drawn at random, word for word, without end."""
    asks = [Ask(prompt, max_tokens) for prompt in prompts]
    rng = np.random.default_rng(seed)
    while True:
        for place in rng.integers(len(asks), size=1024).tolist():
            yield asks[place]


def fresh_prompts(max_tokens: int, seed: np.random.SeedSequence) -> Iterator[Ask]:
    """The built-in messages at random, each behind a number of its own, without end.

    The number comes first, so that no prefix cache has seen the prompt before.
    """
    rng = np.random.default_rng(seed)
    while True:
        places = rng.integers(len(BUILT_IN_PROMPTS), size=1024).tolist()
        for place, number in zip(places, rng.integers(10**8, 10**9, size=1024).tolist(), strict=True):
            yield Ask([{"role": "user", "content": f"{number}: {BUILT_IN_PROMPTS[place]}"}], max_tokens)


def assigned(asks: Iterator[Ask], models: Iterator[str], requests: int) -> Iterator[RequestSpec]:
    """The first `requests` asks with their models: the one they name, else the next one of `models`."""
    for index, ask in zip(range(requests), asks, strict=False):
        yield RequestSpec(index, ask.model or next(models), ask.messages, ask.max_tokens, ask.exact)


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
