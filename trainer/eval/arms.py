"""The arms of a comparison: their models and versions, prompts, few-shot examples and request settings.

Adapter refs are resolved to versions (`name@v3`) with a digest by the gateway. Few-shot examples come from the training
rows alone: `diverse` takes one fixed set, from each class in turn the row with the most new words; `nearest` takes for
each question the rows most similar to it by BM25, the most similar last.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adapters import AdapterError
from adapters.admin_client import AdminClient, connect
from adapters.errors import AdminError
from adapters.ref import AdapterRef
from trainer.data.near_duplicates import answer_text, normalised, words
from trainer.data.schema import Example
from trainer.errors import EvaluationError, RecipeError
from trainer.eval.examples import EvalExample, EvalSet, parse_document
from trainer.eval.report import ArmKind, BaseFacts
from trainer.eval.retrieval import DocumentIndex, Index
from trainer.eval.task import Task

_MAX_WORDS = 200
"""Longer examples are skipped: sixteen of them would leave no room for the question."""


class FewShotExamples:
    """Choose the few-shot examples for a question."""

    def __init__(self, task: Task, pool: Sequence[Example]) -> None:
        self._task = task
        self._pool = [example for example in pool if len(_last_user_text(example).split()) <= _MAX_WORDS] or list(pool)

    def before(self, eval_example: EvalExample) -> list[dict[str, Any]]:
        """Return the few-shot examples for a test example as messages."""
        if not self._task.shots:
            return []
        if self._task.shot_choice == "nearest":
            chosen = [self._pool[at] for at in reversed(self._index.nearest(eval_example.question, self._task.shots))]
        else:
            chosen = self.diverse
        return [turn for example in chosen for turn in _turns(example)]

    @cached_property
    def diverse(self) -> list[Example]:
        """The fixed set of examples; ties go to the earlier row."""
        classes: dict[str, list[Example]] = {}
        for example in self._pool:
            classes.setdefault(_class(example, self._task.label or next(iter(self._task.fields), "")), []).append(
                example
            )
        covered: set[str] = set()
        chosen: list[Example] = []
        waiting = [classes[name] for name in sorted(classes)]
        while len(chosen) < min(self._task.shots, len(self._pool)):
            candidates = waiting[len(chosen) % len(waiting)]
            if not candidates:
                waiting.remove(candidates)
                continue
            best = max(candidates, key=lambda example: _newness(example, covered))
            candidates.remove(best)
            chosen.append(best)
            covered |= _vocabulary(best)
        return chosen

    @cached_property
    def _index(self) -> Index:
        return Index([_last_user_text(example) for example in self._pool])


def _newness(example: Example, covered: set[str]) -> float:
    """Return the share of an example's words that no chosen example has; favours short examples, which are cheaper."""
    own = _vocabulary(example)
    return len(own - covered) / (len(own) + 10)


def _vocabulary(example: Example) -> set[str]:
    return set(words(normalised(_last_user_text(example))))


def _last_user_text(example: Example) -> str:
    questions = [message.content for message in example.messages[: example.answer_index] if message.role == "user"]
    return questions[-1] if questions else ""


def _class(example: Example, field: str) -> str:
    document = parse_document(answer_text(example))
    return str(document.get(field, "")) if isinstance(document, dict) else ""


def _turns(example: Example) -> list[dict[str, Any]]:
    return [turn for turn in example.as_dicts()[: example.answer_index + 1] if turn["role"] != "system"]


_PASSAGES = "Use these documents where they help:\n\n"


@dataclass(frozen=True)
class Candidate:
    """A served adapter: the ref as given, and the model name of its version; `digest` is None when unknown."""

    ref: str
    model: str
    digest: str | None = None


@dataclass(frozen=True)
class ArmPlan:
    """The plan of one arm; `request` has the request fields beside model and messages."""

    name: str
    kind: ArmKind
    model: str
    digest: str | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def with_prompt(self) -> bool:
        """Whether the arm gets the task's prompt and few-shot examples."""
        return self.kind in (ArmKind.PROMPTED, ArmKind.CONSTRAINED, ArmKind.RETRIEVAL, ArmKind.FRONTIER)

    @property
    def with_passages(self) -> bool:
        """Whether the arm gets retrieved documents."""
        return self.kind in (ArmKind.RETRIEVAL, ArmKind.ADAPTER_RETRIEVAL)


class Prompts:
    """Build the messages of every arm for every test example."""

    def __init__(self, task: Task, items: EvalSet) -> None:
        self._task, self._items = task, items
        self._shots = FewShotExamples(task, items.pool)

    @cached_property
    def library(self) -> DocumentIndex | None:
        """The index of the task's documents, if it has any."""
        table = self._task.retrieval
        return DocumentIndex.read(self._task.directory, table) if table else None

    def messages(self, arm: ArmPlan, eval_example: EvalExample) -> list[dict[str, Any]]:
        """Return the messages for one test example."""
        system = "\n\n".join(message["content"] for message in eval_example.prompt if message["role"] == "system")
        messages = [dict(message) for message in eval_example.prompt if message["role"] != "system"]
        if arm.with_prompt:
            system = self._task.prompt or system
            messages = [*self._shots.before(eval_example), *messages]
        if arm.with_passages and self.library:
            passages = "\n\n".join(f"[{passage.id}] {passage.text}" for passage in self.library.found(eval_example))
            system = f"{system}\n\n{_PASSAGES}{passages}" if system else f"{_PASSAGES}{passages}"
        return [{"role": "system", "content": system}, *messages] if system else messages

    def settings(self, arm: ArmPlan) -> dict[str, Any]:
        """Return the settings of an arm for the report."""
        settings: dict[str, Any] = dict(arm.settings)
        if arm.with_prompt:
            settings |= {"prompt": self._task.prompt, "shots": self._task.shots, "shot_choice": self._task.shot_choice}
        if arm.with_passages and self.library and self._task.retrieval:
            k = self._task.retrieval.k
            settings |= {"k": k, f"recall_at_{k}": self.library.recall(self._items.items)}
        return settings


def plan_arms(task: Task, base: str, adapters: Sequence[Candidate]) -> list[ArmPlan]:
    """Return the arms of a task; raises `RecipeError` when it lists one that it does not describe."""
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
        accepted = {name: value for name, value in common.items() if name not in task.frontier.omit}
        settings = {"endpoint": task.frontier.base_url or "the gateway"}
        request = accepted | task.frontier.request
        plans.append(ArmPlan("frontier", ArmKind.FRONTIER, task.frontier.model, None, request, settings))
    if task.recorded:
        plans.append(ArmPlan("recorded", ArmKind.RECORDED, task.recorded))
    return _wanted(task, plans)


def plan_models(task: Task, base: str, models: Sequence[str]) -> list[ArmPlan]:
    """Return one arm per model, without a prompt."""
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
        raise RecipeError(f"arms lists {missing[0]}, which the task does not describe: {_HOW[ArmKind(missing[0])]}.")
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


BASE = "base"
_NOT_FOUND, _DENIED = 404, (0, 401, 403)


@dataclass(frozen=True)
class Served:
    """The served base with its hashes, as far as known, and the adapters to compare."""

    base: BaseFacts
    candidates: tuple[Candidate, ...]


def resolve_versions(refs: Sequence[str], gateway_url: str, data_dir: Path) -> Served:
    """Resolve refs through the admin API; without an admin key they are used as given, with unknown digests.

    A name alone means its live version, or the newest ready one when none is live. Raises `EvaluationError`.
    """
    unknown = Served(
        BaseFacts(model=BASE, base_sha256=None, template_sha256=None), tuple(Candidate(r, r) for r in refs)
    )
    try:
        with connect(gateway_url, data_dir) as admin:
            return Served(_base(admin), tuple(_candidate(admin, ref) for ref in refs))
    except AdminError as error:
        if error.status in _DENIED:
            return unknown
        raise EvaluationError(str(error)) from error
    except AdapterError as error:
        raise EvaluationError(str(error)) from error


def _base(admin: AdminClient) -> BaseFacts:
    try:
        served = admin.request("GET", "/base")
    except AdminError as error:
        if error.status != _NOT_FOUND:
            raise
        return BaseFacts(model=BASE, base_sha256=None, template_sha256=None)
    return BaseFacts(
        model=served["model"], base_sha256=served["base_sha256"], template_sha256=served["template_sha256"]
    )


def _candidate(admin: AdminClient, ref: str) -> Candidate:
    parsed = AdapterRef.parse(ref)
    versions: list[dict[str, Any]] = admin.request("GET", f"/adapters/{parsed.name}")["versions"]
    found = [version for version in versions if _fits(version, parsed)]
    live = [version for version in found if version["live"]]
    ready = [version for version in found if version["state"] == "ready"]
    if not found:
        raise EvaluationError(f"there is no version {ref}; `turntable adapters show {parsed.name}` lists them.")
    chosen = (live or ready or found)[-1]
    return Candidate(ref, f"{parsed.name}@{chosen['version']}", chosen["digest"])


def _fits(version: Mapping[str, Any], ref: AdapterRef) -> bool:
    if ref.version is not None:
        return bool(version["version"] == f"v{ref.version}")
    return str(version["digest"]).startswith(ref.digest12 or "")
