"""Collect the answers of all arms concurrently, with as many requests in flight as the task allows."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, TypeVarTuple

from trainer.errors import RecipeError, TrainerError
from trainer.eval.answers import Answer, Journal
from trainer.eval.arms import ArmPlan, Prompts
from trainer.eval.costs import FRONTIER_PRICES
from trainer.eval.endpoints import complete, endpoint_client
from trainer.eval.examples import EvalExample
from trainer.eval.report import ArmKind
from trainer.eval.task import FrontierTable, Task

if TYPE_CHECKING:
    from openai import AsyncOpenAI


_Job = TypeVarTuple("_Job")


async def run_jobs(jobs: Iterable[tuple[*_Job]], do: Callable[[*_Job], Awaitable[None]], concurrency: int) -> None:
    """Run all jobs with limited concurrency; raises the first `TrainerError` of a job, after cancelling the others."""
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await do(*job)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except* TrainerError as errors:
        raise errors.exceptions[0] from None


Progress = Callable[[int, int], None]
"""Called with the number of answers so far, and in total."""


async def run_arms(
    task: Task,
    plans: Sequence[ArmPlan],
    items: Sequence[EvalExample],
    prompts: Prompts,
    journal: Journal,
    gateway: "AsyncOpenAI",
    progress: Progress,
) -> list[Answer]:
    """Return every answer of every arm, failed ones too, in the order of arms and examples.

    Answers in the journal are not requested again. Raises `EvaluationError` for an error that ends the comparison.
    """
    failed: dict[tuple[str, int], Answer] = {}
    _take_recorded(task, plans, items, journal)
    waiting = [(p, i) for i in items for p in plans if (p.name, i.line) not in journal.answers]
    total = len(items) * len(plans)
    done = count(total - len(waiting) + 1)
    async with AsyncExitStack() as stack:
        clients = {plan.name: gateway for plan in plans}
        if task.frontier and ArmKind.FRONTIER in {plan.kind for plan in plans}:
            clients["frontier"] = await stack.enter_async_context(endpoint_client(task.frontier, gateway))

        async def one(plan: ArmPlan, example: EvalExample) -> None:
            messages = prompts.messages(plan, example)
            answer = await complete(clients[plan.name], plan.name, example.line, plan.model, messages, plan.request)
            if plan.kind is ArmKind.FRONTIER and task.frontier:
                answer = _priced(answer, task.frontier)
            journal.add(answer)
            if answer.error is not None:
                failed[plan.name, example.line] = answer
            progress(next(done), total)

        await run_jobs(waiting, one, task.concurrency)
    return [(journal.answers | failed)[plan.name, example.line] for plan in plans for example in items]


def _priced(answer: Answer, table: FrontierTable) -> Answer:
    prompt, completion = table.usd_per_million_prompt, table.usd_per_million_completion
    if prompt is None or completion is None or answer.error is not None:
        return answer
    micro_usd = answer.prompt_tokens * prompt + answer.completion_tokens * completion
    return replace(answer, cost_nano_usd=round(micro_usd * 1000), cost_basis=FRONTIER_PRICES)


def _take_recorded(task: Task, plans: Sequence[ArmPlan], items: Sequence[EvalExample], journal: Journal) -> None:
    for plan in plans:
        if plan.kind is ArmKind.RECORDED:
            given = dict(_recorded(task, plan.name))
            if missing := [example.line for example in items if example.line not in given]:
                raise RecipeError(
                    f"{task.recorded} has no answer for line {missing[0]} of {task.data} ({len(missing)} missing in "
                    "all); a comparison drops no items, so add them."
                )
            for example in items:
                if (plan.name, example.line) not in journal.answers:
                    journal.add(given[example.line])


def _recorded(task: Task, arm: str) -> Iterator[tuple[int, Answer]]:
    path = task.directory / str(task.recorded)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read ({error}); fix recorded in the task.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _recorded_line(f"{path}:{number}", line, arm)


def _recorded_line(where: str, line: str, arm: str) -> tuple[int, Answer]:
    try:
        row: Mapping[str, object] = json.loads(line)
        known = {name: row[name] for name in Answer.__dataclass_fields__ if name in row and name != "arm"}
        answer = Answer(arm=arm, finish_reason=str(known.pop("finish_reason", "stop")), **known)  # type: ignore[arg-type]
        if not isinstance(answer.line, int) or not isinstance(answer.text, str):
            raise TypeError("line is a number and text is text")
    except (ValueError, TypeError, AttributeError) as error:
        raise RecipeError(f'{where}: is not an answer ({error}); write {{"line": 3, "text": "..."}}.') from error
    return answer.line, answer
