"""Comparing models on held-out rows through a running gateway, the way an application would ask them.

Every model is asked every row, one model after the other, with the OpenAI SDK at temperature 0. A request that fails is
counted and named; it is neither dropped nor scored as a wrong answer, and a comparison with failures has no verdict.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from trainer.dataset import read_dataset
from trainer.errors import EvaluationError
from trainer.rows import Example
from trainer.scoring import Answer, ModelScore, score_model
from trainer.task import Task, read_schema

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Requirement:
    """The least value that one rate of one model must have."""

    model: str
    rate: str
    least: float


@dataclass(frozen=True)
class Comparison:
    """Scores of all models on one task, and every answer they are made of."""

    task: Task
    data_sha256: str
    scores: tuple[ModelScore, ...]
    answers: tuple[Answer, ...]

    @property
    def failures(self) -> list[Answer]:
        """The requests that got no answer; with any of them, the scores are partial."""
        return [answer for answer in self.answers if answer.error is not None]


def compare(
    task: Task, models: Sequence[str], *, gateway_url: str, key: str, on_answer: Callable[[int, int], None]
) -> Comparison:
    """Ask all models all rows of a task and score them; `on_answer` is told how many of how many answers are in.

    Raises `EvaluationError` when there is no gateway, the key is refused or a model is unknown.
    """
    validator = read_schema(task)
    dataset = read_dataset(task.data_path)
    answers = asyncio.run(_ask_models(task, models, dataset.examples, gateway_url, key, on_answer))
    expected = {example.line: example.messages[-1].content for example in dataset.examples}
    scores = tuple(score_model(model, answers[model], expected, validator, task.fields) for model in models)
    return Comparison(task, dataset.sha256, scores, tuple(a for model in models for a in answers[model]))


def unmet(comparison: Comparison, required: Sequence[Requirement]) -> list[str]:
    """The requirements that were missed, as sentences."""
    scores = {score.model: score for score in comparison.scores}
    measured = [(wanted, scores[wanted.model].rates[wanted.rate].value) for wanted in required]
    return [
        f"{wanted.model}: {wanted.rate} is {value:.3f}, below the required {wanted.least:g}"
        for wanted, value in measured
        if value < wanted.least
    ]


async def _ask_models(
    task: Task,
    models: Sequence[str],
    rows: Sequence[Example],
    gateway_url: str,
    key: str,
    on_answer: Callable[[int, int], None],
) -> dict[str, list[Answer]]:
    from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient

    http = DefaultAsyncHttpxClient(trust_env=False, timeout=_TIMEOUT_S)
    async with AsyncOpenAI(base_url=f"{gateway_url.rstrip('/')}/v1", api_key=key, http_client=http) as client:
        try:
            await client.models.list()
        except APIStatusError as error:
            raise EvaluationError(f"the gateway at {gateway_url} refuses the key: {error.message}") from error
        except APIConnectionError as error:
            raise EvaluationError(f"no gateway answers at {gateway_url}; start one with `turntable serve`.") from error
        done = count(1)

        def answered() -> None:
            on_answer(next(done), len(models) * len(rows))

        return {model: await _ask_rows(client, task, model, rows, answered) for model in models}


async def _ask_rows(
    client: "AsyncOpenAI", task: Task, model: str, rows: Sequence[Example], answered: Callable[[], None]
) -> list[Answer]:
    slots = asyncio.Semaphore(task.concurrency)

    async def ask(row: Example) -> Answer:
        async with slots:
            answer = await _ask(client, task, model, row)
        answered()
        return answer

    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(row)) for row in rows]
    except* EvaluationError as errors:
        raise errors.exceptions[0] from None
    return [each.result() for each in asked]


async def _ask(client: "AsyncOpenAI", task: Task, model: str, row: Example) -> Answer:
    from openai import APIError, AuthenticationError, NotFoundError, PermissionDeniedError
    from openai.types.chat import ChatCompletionMessageParam

    messages: list[ChatCompletionMessageParam] = row.as_dicts()[:-1]  # type: ignore[assignment]
    began = time.perf_counter()
    try:
        completion = await client.chat.completions.create(
            model=model, messages=messages, temperature=0.0, max_tokens=task.max_tokens
        )
    except (AuthenticationError, NotFoundError, PermissionDeniedError) as error:
        raise EvaluationError(f"the gateway refuses model {model}: {error.message}") from error
    except APIError as error:
        return Answer(model, row.line, error=error.message)
    choice, usage = completion.choices[0], completion.usage
    return Answer(
        model=model,
        line=row.line,
        text=choice.message.content or "",
        finish_reason=choice.finish_reason,
        latency_ms=(time.perf_counter() - began) * 1000,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
    )
