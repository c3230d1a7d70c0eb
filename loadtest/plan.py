"""From settings to requests: which one leaves when, to which model, with which words."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np

from loadtest.arrivals import offsets_s
from loadtest.errors import InvalidWorkloadError
from loadtest.lengths import Lengths
from loadtest.popularity import popularity
from loadtest.settings import RunSettings
from loadtest.texts import conversations, random_texts, replayed, words
from loadtest.traces import TraceRow, read_trace
from loadtest.workload import Ask, RequestSpec, assigned, built_in_prompts, drawn_prompts, read_prompts


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
        rows = _trace_rows(settings)
        named = dict.fromkeys([*settings.models, *(row.adapter for row in rows if row.adapter)])
        specs = assigned(
            _asks(settings, rows),
            popularity(settings.popularity, settings.models, settings.seed),
            settings.most_requests,
        )
        times = _times_s(settings, rows)
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


def _asks(settings: RunSettings, rows: list[TraceRow]) -> Iterator[Ask]:
    if rows:
        return replayed(rows, settings.seed, settings.speedup)
    output = Lengths.parse(settings.output_tokens, "--output-tokens") if settings.output_tokens else None
    synthetic = settings.prompt_words or settings.turns > 1 or settings.prefix_words or output
    if not synthetic or settings.prompts:
        prompts = read_prompts(settings.prompts) if settings.prompts else built_in_prompts()
        return _with_lengths(drawn_prompts(prompts, settings.max_tokens, settings.seed), output, settings.seed)
    prompt = Lengths.parse(settings.prompt_words or "32", "--prompt-words")
    prefix = words(np.random.default_rng(settings.seed), settings.prefix_words)
    if settings.turns > 1:
        return conversations(
            settings.turns, settings.conversations, prompt, output, settings.max_tokens, prefix, settings.seed
        )
    return random_texts(prompt, output, settings.max_tokens, prefix, settings.seed)


def _with_lengths(asks: Iterator[Ask], output: Lengths | None, seed: int) -> Iterator[Ask]:
    if output is None:
        return asks
    rng = np.random.default_rng(seed)
    return (Ask(ask.messages, output.draw(rng), exact=True) for ask in asks)


def _times_s(settings: RunSettings, rows: list[TraceRow]) -> Iterator[float] | None:
    if settings.arrivals == "trace":
        return (row.at_s / settings.speedup for row in rows)
    if settings.rate is None:
        return None
    return offsets_s(settings.rate, settings.shape, settings.seed)
