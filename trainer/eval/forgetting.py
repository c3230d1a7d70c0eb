"""Measure forgetting: the cross-entropy of base and adapter on general text, on the engine that serves them.

Prompt log-probabilities crash the engine (decision 6), so the text is scored token by token: a request has the tokens
before a position, allows only the next one, and returns its log-probability without that constraint. Positions are
spread evenly over the text and are the same for every arm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import EvaluationError, RecipeError
from trainer.eval.answers import Answer, Journal
from trainer.eval.freeze import BUILTIN
from trainer.eval.runner import run_jobs
from trainer.eval.statistics import MetricSample
from trainer.eval.task import Task

if TYPE_CHECKING:
    from openai import AsyncOpenAI


TEXTS = (
    "The library opens at nine in the morning and closes at six in the evening. On Saturdays it closes at noon. If you "
    "want to borrow a book, bring your card with you and ask at the desk near the door.",
    "To make a simple soup, cut two onions and a carrot into small pieces and cook them slowly in a little oil. Add "
    "water, salt and a handful of rice, and let everything boil for twenty minutes. Serve it hot with bread.",
    "My grandmother lived in a small house by the river. Every spring the water rose, and every spring she carried her "
    "chairs upstairs and waited. She said that a river gives back what it takes, only never at the same place.",
    "A square has four equal sides and four right angles. If one side is three metres long, then the area is nine "
    "square metres, and the way around it is twelve metres. A circle of the same area is shorter to walk around.",
    "Could you tell me when the next train leaves? I have to be in town before eight o'clock, and I would like to have "
    "enough time to buy a cup of coffee and read the news before my first meeting of the day.",
    "The moon moves around the earth in about four weeks. Half of it is always lit by the sun, but from here we see "
    "more or less of that half, and so it seems to grow from a thin line to a full disc and then to shrink again.",
)
POSITIONS = 200


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a text: the tokens before it, and the next one."""

    before: tuple[int, ...]
    token: int


def general_texts(task: Task) -> tuple[str, ...]:
    """Return the paragraphs of the task's general text; none when it names no text."""
    if task.general_text is None or task.general_text == BUILTIN:
        return TEXTS if task.general_text else ()
    path = task.directory / task.general_text
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read ({error}); fix general_text in the task.") from error
    paragraphs = tuple(" ".join(part.split()) for part in text.split("\n\n") if part.strip())
    if not paragraphs:
        raise RecipeError(f'{path} is empty; write some paragraphs of general text, or general_text = "{BUILTIN}".')
    return paragraphs


async def cross_entropy_at(
    texts: Sequence[str],
    models: Mapping[str, str],
    base: str,
    client: "AsyncOpenAI",
    journal: Journal,
    concurrency: int,
) -> dict[str, MetricSample]:
    """Return the cross-entropy of each arm (name to model) at every position, in nats per token.

    Raises `EvaluationError` when the engine gives no log-probability.
    """
    places = spread([await _tokens(client, base, text) for text in texts], POSITIONS)

    async def one(arm: str, at: int) -> None:
        logprob = await _logprob(client, models[arm], places[at])
        journal.add(Answer(_name(arm), at, text=repr(logprob)))

    jobs = [(arm, at) for at in range(len(places)) for arm in models if (_name(arm), at) not in journal.answers]
    await run_jobs(jobs, one, concurrency)
    return {
        arm: MetricSample.mean_of([-float(journal.answers[_name(arm), at].text) for at in range(len(places))])
        for arm in models
    }


def spread(texts: Sequence[Sequence[int]], most: int) -> list[Place]:
    """Choose at most so many positions, evenly over all texts; the first token of a text has no context."""
    places = [(text, at) for text in texts for at in range(1, len(text))]
    if not places:
        return []
    chosen = sorted(set(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int).tolist()))
    return [Place(tuple(text[:at]), text[at]) for text, at in (places[number] for number in chosen)]


async def _tokens(client: "AsyncOpenAI", model: str, text: str) -> list[int]:
    from openai import APIError

    try:
        url = str(client.base_url).removesuffix("/").removesuffix("/v1") + "/tokenize"
        answered: dict[str, Any] = await client.post(url, body={"model": model, "prompt": text}, cast_to=dict[str, Any])
    except APIError as error:
        raise EvaluationError(f"forgetting cannot be measured: the gateway tokenizes nothing ({error}).") from error
    return [int(token) for token in answered["tokens"]]


async def _logprob(client: "AsyncOpenAI", model: str, place: Place) -> float:
    from openai import APIError

    try:
        completion = await client.completions.create(
            model=model,
            prompt=list(place.before),
            max_tokens=1,
            logprobs=1,
            temperature=0.0,
            extra_body={"allowed_token_ids": [place.token], "ignore_eos": True},
        )
    except APIError as error:
        raise EvaluationError(
            f"forgetting cannot be measured: {model} gives no log-probabilities ({error})."
        ) from error
    logprobs = completion.choices[0].logprobs
    logprobs_of_text = logprobs.token_logprobs if logprobs else None
    if not logprobs_of_text or logprobs_of_text[0] is None:
        raise EvaluationError(f"forgetting cannot be measured: {model} gives no log-probabilities.")
    return float(logprobs_of_text[0])


def _name(arm: str) -> str:
    return f"forgetting:{arm}"
