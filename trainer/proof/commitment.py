"""What a training commits itself to: the frozen task by which its outcome will be judged, kept apart from its data."""

from pathlib import Path
from typing import Any

from trainer.errors import RecipeError
from trainer.proof.freezing import frozen_at, identity
from trainer.proof.items import read_items
from trainer.proof.task import read_task
from trainer.recipe import Recipe


def commitment(task_file: Path, recipe: Recipe) -> dict[str, Any]:
    """The frozen task's identity, for the facts of a run.

    Raises `RecipeError` when the task is not frozen or has changed since, `DataError` when the recipe trains on rows
    that the task holds out.
    """
    task = read_task(task_file)
    frozen = identity(task)
    when, changed = frozen_at(task_file, frozen)
    if when is None or changed:
        why = f"has changed since it was frozen ({', '.join(changed)})" if changed else "is not frozen"
        raise RecipeError(f"{task_file} {why}; run `turntable compare freeze {task_file}`, then train.")
    if recipe.method != "dpo":
        read_items(task.model_copy(update={"train": str(recipe.train_path.resolve())}))
    return {"name": task.name, "sha256": frozen.sha256, "frozen_at": when}
