"""The arms of a comparison: for each one which model is asked, what stands before the question, with which settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trainer.errors import RecipeError
from trainer.proof.document import ArmKind
from trainer.proof.items import Item, Items
from trainer.proof.retrieval import Library
from trainer.proof.shots import Shots
from trainer.proof.task import Task

_PASSAGES = "Use these documents where they help:\n\n"


@dataclass(frozen=True)
class Candidate:
    """A served adapter: what it was called by, and the exact version that answers; `digest` as far as it is known."""

    ref: str
    model: str
    digest: str | None = None


@dataclass(frozen=True)
class ArmPlan:
    """One arm before it is asked; `request` holds the fields beside model and messages."""

    name: str
    kind: ArmKind
    model: str
    digest: str | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def with_prompt(self) -> bool:
        """Whether the task's prompt and shots stand before the question."""
        return self.kind in (ArmKind.PROMPTED, ArmKind.CONSTRAINED, ArmKind.RETRIEVAL, ArmKind.FRONTIER)

    @property
    def with_passages(self) -> bool:
        """Whether retrieved documents do."""
        return self.kind in (ArmKind.RETRIEVAL, ArmKind.ADAPTER_RETRIEVAL)


class Prompts:
    """Writes the messages of every arm for every item."""

    def __init__(self, task: Task, items: Items) -> None:
        self._task, self._items = task, items
        self._shots = Shots(task, items.pool)

    @cached_property
    def library(self) -> Library | None:
        """The documents of the task, if it has some."""
        table = self._task.retrieval
        return Library.read(self._task.directory, table) if table else None

    def messages(self, arm: ArmPlan, item: Item) -> list[dict[str, Any]]:
        """What is sent for one item."""
        system = "\n\n".join(message["content"] for message in item.asked if message["role"] == "system")
        said = [dict(message) for message in item.asked if message["role"] != "system"]
        if arm.with_prompt:
            system = self._task.prompt or system
            said = [*self._shots.before(item), *said]
        if arm.with_passages and self.library:
            passages = "\n\n".join(f"[{passage.id}] {passage.text}" for passage in self.library.found(item))
            system = f"{system}\n\n{_PASSAGES}{passages}" if system else f"{_PASSAGES}{passages}"
        return [{"role": "system", "content": system}, *said] if system else said

    def settings(self, arm: ArmPlan) -> dict[str, Any]:
        """What the report says about how an arm was asked."""
        said: dict[str, Any] = dict(arm.settings)
        if arm.with_prompt:
            said |= {"prompt": self._task.prompt, "shots": self._task.shots, "shot_choice": self._task.shot_choice}
        if arm.with_passages and self.library and self._task.retrieval:
            k = self._task.retrieval.k
            said |= {"k": k, f"recall_at_{k}": self.library.recall(self._items.items)}
        return said


def plan_arms(task: Task, base: str, adapters: Sequence[Candidate]) -> list[ArmPlan]:
    """Every arm that the task allows; raises `RecipeError` when it asks for one that it does not describe."""
    common = {"temperature": 0.0, "max_tokens": task.max_tokens}
    plans = [ArmPlan("base", ArmKind.BASE, base, request=common)]
    if task.prompt or task.shots:
        plans.append(ArmPlan("prompted", ArmKind.PROMPTED, base, request=common))
    if task.json_schema:
        plans.append(ArmPlan("constrained", ArmKind.CONSTRAINED, base, request=common | _schema(task)))
    if task.retrieval:
        plans.append(ArmPlan("retrieval", ArmKind.RETRIEVAL, base, request=common))
    for one in adapters:
        plans.append(ArmPlan(one.ref, ArmKind.ADAPTER, one.model, one.digest, common))
        if task.retrieval:
            name = f"{one.ref}+retrieval"
            plans.append(ArmPlan(name, ArmKind.ADAPTER_RETRIEVAL, one.model, one.digest, common))
    if task.frontier:
        asked = {name: value for name, value in common.items() if name not in task.frontier.omit}
        settings = {"endpoint": task.frontier.base_url or "the gateway"}
        request = asked | task.frontier.request
        plans.append(ArmPlan("frontier", ArmKind.FRONTIER, task.frontier.model, None, request, settings))
    if task.recorded:
        plans.append(ArmPlan("recorded", ArmKind.RECORDED, task.recorded))
    return _wanted(task, plans)


def plan_models(task: Task, base: str, models: Sequence[str]) -> list[ArmPlan]:
    """Models as they are, each asked as an application would ask it."""
    common = {"temperature": 0.0, "max_tokens": task.max_tokens}
    kinds = {model: ArmKind.BASE if model == base else ArmKind.ADAPTER for model in models}
    return [ArmPlan(model, kind, model, request=common) for model, kind in kinds.items()]


def _schema(task: Task) -> dict[str, Any]:
    schema = json.loads((task.directory / str(task.json_schema)).read_bytes())
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _wanted(task: Task, plans: list[ArmPlan]) -> list[ArmPlan]:
    if not task.arms:
        return plans
    there = {plan.kind for plan in plans}
    if missing := [kind for kind in task.arms if kind not in there]:
        raise RecipeError(f"arms asks for {missing[0]}, but the task does not say how: {_HOW[ArmKind(missing[0])]}.")
    return [plan for plan in plans if plan.kind in task.arms]


_HOW = {
    ArmKind.PROMPTED: "set prompt or shots",
    ArmKind.CONSTRAINED: "set json_schema",
    ArmKind.RETRIEVAL: "write a table [retrieval]",
    ArmKind.ADAPTER: "set adapters, or pass --adapter",
    ArmKind.ADAPTER_RETRIEVAL: "set adapters and write a table [retrieval]",
    ArmKind.FRONTIER: "write a table [frontier]",
    ArmKind.RECORDED: "set recorded",
}
