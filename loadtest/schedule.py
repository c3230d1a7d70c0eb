"""Request schedule: which request leaves when, to which model, with which prompt; made from the settings and a seed."""

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
    Lengths,
    PromptSpec,
    RequestSpec,
    assign_models,
    conversations,
    drawn_prompts,
    fresh_prompts,
    random_texts,
    random_words,
    read_prompts,
    replay_trace,
)


@dataclass(frozen=True, slots=True)
class RandomStreams:
    """Independent random streams for everything that is drawn.

    One seed for two generators makes their draws go together: popular models would come in bursts.
    """

    arrivals: np.random.SeedSequence
    models: np.random.SeedSequence
    prompts: np.random.SeedSequence
    lengths: np.random.SeedSequence
    prefix: np.random.SeedSequence

    @classmethod
    def of(cls, settings: RunSettings) -> "RandomStreams":
        """Return the streams of one run; equal settings give equal streams."""
        return cls(*np.random.SeedSequence(settings.seed, spawn_key=(settings.run,)).spawn(5))


@dataclass(frozen=True, slots=True)
class Plan:
    """Planned requests of a test, or of one of its processes; equal settings give equal plans."""

    specs: Iterator[RequestSpec]
    offsets_s: Iterator[float] | None
    """Send times in an open loop."""
    models: tuple[str, ...]
    """All models that may get requests."""

    @classmethod
    def of(cls, settings: RunSettings, part: int = 0, parts: int = 1) -> "Plan":
        """Plan part `part` of `parts`, which get the requests in turn; raises InvalidWorkloadError for bad files."""
        rows, streams = _trace_rows(settings), RandomStreams.of(settings)
        named = dict.fromkeys([*settings.models, *(row.adapter for row in rows if row.adapter)])
        specs = assign_models(
            _asks(settings, rows, streams),
            model_sequence(settings.popularity, settings.models, streams.models),
            settings.most_requests,
        )
        times = _times_s(settings, rows, streams)
        return cls(
            islice(specs, part, None, parts),
            islice(takewhile(lambda at_s: at_s <= settings.until_s, times), part, None, parts) if times else None,
            tuple(named),
        )


def planned_trace(settings: RunSettings) -> Iterator[TraceRow]:
    """Yield the plan as rows of our trace format; prompt lengths are in words."""
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


def _asks(settings: RunSettings, rows: list[TraceRow], streams: RandomStreams) -> Iterator[PromptSpec]:
    if rows:
        return replay_trace(rows, streams.prompts, settings.speedup)
    output = Lengths.parse(settings.output_tokens, "--output-tokens") if settings.output_tokens else None
    synthetic = settings.prompt_words or settings.turns > 1 or settings.prefix_words or output
    if not synthetic or settings.prompts:
        asks = (
            drawn_prompts(read_prompts(settings.prompts), settings.max_tokens, streams.prompts)
            if settings.prompts
            else fresh_prompts(settings.max_tokens, streams.prompts)
        )
        return _with_lengths(asks, output, streams.lengths)
    prompt = Lengths.parse(settings.prompt_words or "32", "--prompt-words")
    prefix = random_words(np.random.default_rng(streams.prefix), settings.prefix_words)
    if settings.turns > 1:
        return conversations(
            settings.turns, settings.conversations, prompt, output, settings.max_tokens, prefix, streams.prompts
        )
    return random_texts(prompt, output, settings.max_tokens, prefix, streams.prompts)


def _with_lengths(
    asks: Iterator[PromptSpec], output: Lengths | None, seed: np.random.SeedSequence
) -> Iterator[PromptSpec]:
    if output is None:
        return asks
    rng = np.random.default_rng(seed)
    return (PromptSpec(ask.messages, output.draw(rng), exact=True) for ask in asks)


def _times_s(settings: RunSettings, rows: list[TraceRow], streams: RandomStreams) -> Iterator[float] | None:
    if settings.arrivals == "trace":
        return (row.at_s / settings.speedup for row in rows)
    if settings.rate is None:
        return None
    if settings.exact_offer and settings.rate_per_s and settings.duration_s and settings.requests is None:
        return exact_offsets_s(settings.rate_per_s, settings.duration_s, settings.shape, streams.arrivals)
    return offsets_s(settings.rate, settings.shape, streams.arrivals)
