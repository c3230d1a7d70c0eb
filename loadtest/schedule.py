"""From settings to requests: which one leaves when, to which model, with which words."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np

from loadtest.arrivals import exact_offsets_s, offsets_s
from loadtest.errors import InvalidWorkloadError
from loadtest.model_mix import model_sequence
from loadtest.settings import RunSettings
from loadtest.traces import TraceRow, read_trace
from loadtest.workload import (
    Ask,
    Lengths,
    RequestSpec,
    assigned,
    conversations,
    drawn_prompts,
    fresh_prompts,
    random_texts,
    read_prompts,
    replayed,
    words,
)


@dataclass(frozen=True, slots=True)
class Chances:
    """A stream of chance for everything that is drawn, independent of each other.

    One seed for two generators makes their draws go together: popular models would come in bursts.
    """

    arrivals: np.random.SeedSequence
    models: np.random.SeedSequence
    prompts: np.random.SeedSequence
    lengths: np.random.SeedSequence
    prefix: np.random.SeedSequence

    @classmethod
    def of(cls, settings: RunSettings) -> "Chances":
        """Those of one run: the same settings make the same."""
        return cls(*np.random.SeedSequence(settings.seed, spawn_key=(settings.run,)).spawn(5))


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests of a test, or of one of its processes; the same settings make the same plan."""

    specs: Iterator[RequestSpec]
    offsets_s: Iterator[float] | None
    """Send times in an open loop."""
    models: tuple[str, ...]
    """Every model that may be asked."""

    @classmethod
    def of(cls, settings: RunSettings, part: int = 0, parts: int = 1) -> "Plan":
        """Part `part` of `parts`, which get the requests in turn; InvalidWorkloadError when files are no good."""
        rows, chances = _trace_rows(settings), Chances.of(settings)
        named = dict.fromkeys([*settings.models, *(row.adapter for row in rows if row.adapter)])
        specs = assigned(
            _asks(settings, rows, chances),
            model_sequence(settings.popularity, settings.models, chances.models),
            settings.most_requests,
        )
        times = _times_s(settings, rows, chances)
        return cls(
            islice(specs, part, None, parts),
            islice(takewhile(lambda at_s: at_s <= settings.until_s, times), part, None, parts) if times else None,
            tuple(named),
        )


def planned_trace(settings: RunSettings) -> Iterator[TraceRow]:
    """The plan as rows of our trace format, for others to replay; prompts in words."""
    plan = Plan.of(settings)
    if plan.offsets_s is None:
        raise InvalidWorkloadError("a closed loop has no send times to write: give --rate, --ramp or --arrivals trace.")
    for at_s, spec in zip(plan.offsets_s, plan.specs, strict=False):
        prompt = sum(len(str(message.get("content") or "").split()) for message in spec.messages)
        yield TraceRow(at_s, max(1, prompt), spec.max_tokens, spec.model)


def _trace_rows(settings: RunSettings) -> list[TraceRow]:
    if not settings.trace:
        return []
    return read_trace(settings.trace, settings.trace_format, settings.requests)


def _asks(settings: RunSettings, rows: list[TraceRow], chances: Chances) -> Iterator[Ask]:
    if rows:
        return replayed(rows, chances.prompts, settings.speedup)
    output = Lengths.parse(settings.output_tokens, "--output-tokens") if settings.output_tokens else None
    synthetic = settings.prompt_words or settings.turns > 1 or settings.prefix_words or output
    if not synthetic or settings.prompts:
        asks = (
            drawn_prompts(read_prompts(settings.prompts), settings.max_tokens, chances.prompts)
            if settings.prompts
            else fresh_prompts(settings.max_tokens, chances.prompts)
        )
        return _with_lengths(asks, output, chances.lengths)
    prompt = Lengths.parse(settings.prompt_words or "32", "--prompt-words")
    prefix = words(np.random.default_rng(chances.prefix), settings.prefix_words)
    if settings.turns > 1:
        return conversations(
            settings.turns, settings.conversations, prompt, output, settings.max_tokens, prefix, chances.prompts
        )
    return random_texts(prompt, output, settings.max_tokens, prefix, chances.prompts)


def _with_lengths(asks: Iterator[Ask], output: Lengths | None, seed: np.random.SeedSequence) -> Iterator[Ask]:
    if output is None:
        return asks
    rng = np.random.default_rng(seed)
    return (Ask(ask.messages, output.draw(rng), exact=True) for ask in asks)


def _times_s(settings: RunSettings, rows: list[TraceRow], chances: Chances) -> Iterator[float] | None:
    if settings.arrivals == "trace":
        return (row.at_s / settings.speedup for row in rows)
    if settings.rate is None:
        return None
    if settings.exact_offer and settings.rate_per_s and settings.duration_s and settings.requests is None:
        return exact_offsets_s(settings.rate_per_s, settings.duration_s, settings.shape, chances.arrivals)
    return offsets_s(settings.rate, settings.shape, chances.arrivals)
