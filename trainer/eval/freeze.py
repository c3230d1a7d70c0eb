"""Freeze a task before training: a hash over its settings and files, kept in `task.frozen.json` and verified later.

Adapters and concurrency are not part of it: they are the candidates and the speed of a comparison.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.manifest import file_sha256
from trainer.errors import RecipeError
from trainer.eval.examples import read_eval_set
from trainer.eval.task import Task, read_task
from trainer.files import replacing
from trainer.training.recipe import Recipe

_NOT_FROZEN = {"adapters", "concurrency"}
BUILTIN = "builtin"


@dataclass(frozen=True)
class FrozenTask:
    """Identity of a task: `parts` maps each setting and each file to its content or hash."""

    sha256: str
    parts: dict[str, Any]


def identity(task: Task) -> FrozenTask:
    """Return the current identity of a task; raises `RecipeError` when one of its files cannot be read."""
    settings = task.model_dump(mode="json", exclude=_NOT_FROZEN, exclude_defaults=True)
    parts = {**settings, **{f"file {name}": digest for name, digest in _files(task)}}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return FrozenTask(hashlib.sha256(canonical.encode()).hexdigest(), parts)


def freeze(task_file: Path, task: Task) -> tuple[Path, FrozenTask]:
    """Write the task's identity beside it, and return the path and the identity."""
    frozen = identity(task)
    path = frozen_path(task_file)
    document = {"format": 1, "sha256": frozen.sha256, "frozen_at": _now(), "parts": frozen.parts}
    with replacing(path) as file:
        json.dump(document, file, indent=2, ensure_ascii=False)
        file.write("\n")
    return path, frozen


def frozen_at(task_file: Path, present: FrozenTask) -> tuple[str | None, tuple[str, ...]]:
    """Return when the task was frozen and what has changed since; None and nothing when it never was."""
    path = frozen_path(task_file)
    try:
        document = json.loads(path.read_bytes())
        when, then, sha256 = document["frozen_at"], document["parts"], document["sha256"]
    except FileNotFoundError:
        return None, ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path} cannot be read ({error!r}); freeze the task again, before training.") from error
    if sha256 == present.sha256:
        return when, ()
    return when, tuple(sorted(n for n in then.keys() | present.parts.keys() if then.get(n) != present.parts.get(n)))


def frozen_path(task_file: Path) -> Path:
    """Return the path of the task's identity."""
    return task_file.with_suffix(".frozen.json")


def _files(task: Task) -> Iterator[tuple[str, str]]:
    named = [task.data, task.train, task.json_schema, task.recorded]
    named += [task.general_text] if task.general_text != BUILTIN else []
    if task.metric_function:
        module = f"{task.metric_function.partition(':')[0].replace('.', '/')}.py"
        named += [module] if (task.directory / module).is_file() else []
    for name in filter(None, named):
        yield name, _sha256(task.directory / name)
    if task.retrieval:
        folder = task.directory / task.retrieval.documents
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
        for path in files:
            yield Path(os.path.relpath(path, task.directory)).as_posix(), _sha256(path)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror}); fix the task, which names it.") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def frozen_commitment(task_file: Path, recipe: Recipe) -> dict[str, Any]:
    """Return the frozen task's identity, for the metadata of a run.

    Raises `RecipeError` when the task is not frozen or has changed since, `DataError` when the recipe trains on rows
    that the task holds out.
    """
    task = read_task(task_file)
    frozen = identity(task)
    when, changed = frozen_at(task_file, frozen)
    if when is None or changed:
        why = f"has changed since it was frozen ({', '.join(changed)})" if changed else "is not frozen"
        raise RecipeError(f"{task_file} {why}; run `turntable compare freeze {task_file}`, then train.")
    if not recipe.learns_pairs:
        for path in recipe.train_paths:
            read_eval_set(task.model_copy(update={"train": str(path.resolve())}))
    return {"name": task.name, "sha256": frozen.sha256, "frozen_at": when}
