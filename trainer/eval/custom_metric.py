"""A metric of the user's own: a Python function `module:function` beside the task, or importable.

It is called as `function(answer, expected, row)` with two texts and the row as it was read, and returns a number (or a
bool). What it raises is reported per item, and then nothing is decided.
"""

import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import Problem, RecipeError
from trainer.eval.answers import Answer
from trainer.eval.examples import EvalExample
from trainer.eval.statistics import Series
from trainer.eval.task import Task

Function = Callable[[str, str, Any], Any]


def load_function(task: Task) -> Function | None:
    """The task's function; raises `RecipeError` when it cannot be found or imported."""
    if task.metric_function is None:
        return None
    module, _, name = task.metric_function.partition(":")
    beside = task.directory / f"{module.replace('.', '/')}.py"
    try:
        loaded = _from_file(module, beside) if beside.is_file() else importlib.import_module(module)
    except Exception as error:  # whatever somebody's module raises
        raise RecipeError(f"metric_function: {module} cannot be imported ({error!r}); looked at {beside}.") from error
    function = getattr(loaded, name, None)
    if not callable(function):
        raise RecipeError(f"metric_function: {module} has no function {name}.")
    found: Function = function
    return found


def _from_file(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_series(
    task: Task, function: Function, items: Sequence[EvalExample], answers: Sequence[Answer]
) -> tuple[Series, list[Problem]]:
    """The metric of one arm, and a problem for each item on which the function raised or returned no number."""
    values, problems = [], []
    for item, answer in zip(items, answers, strict=True):
        value = math.nan
        if answer.error is None:
            try:
                value = _number(function(answer.text, item.expected, item.row))
            except Exception as error:  # whatever somebody's function raises
                why = f"{task.metric_function} raised {type(error).__name__}: {error}{_where(error)} on {answer.arm}"
                problems.append(Problem(str(task.data_path), item.line, why))
        values.append(value)
    return Series.mean_of(values), problems


def _number(returned: Any) -> float:
    if isinstance(returned, bool | int | float) and math.isfinite(returned):
        return float(returned)
    raise TypeError(f"returned {returned!r}, which is no finite number")


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__ or sys.exc_info()[2])
    last = frames[-1]
    return f" ({Path(last.filename).name}:{last.lineno})" if len(frames) > 1 else ""
