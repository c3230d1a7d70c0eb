"""Load the rows of a recipe, hold out validation rows, and render both splits with the base's chat template."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from adapters import AdapterError, BaseModel
from adapters.manifest import file_sha256
from trainer.data.findings import AMBER, RED, Finding
from trainer.data.lint import LintOptions, LintReport, lint_files, refuse_red
from trainer.data.loaders import Kind
from trainer.data.schema import Pair
from trainer.data.split import hold_out
from trainer.errors import DataError, Problem, RunError
from trainer.training.base import Base, find_base
from trainer.training.recipe import Recipe

if TYPE_CHECKING:
    from trainer.training.loss_mask import RenderedExample, RenderedSet, Renderer


@dataclass(frozen=True)
class LoadedSplit:
    """The examples (pairs for dpo) of one split; `name` is its file as the recipe writes it, `sha256` of the file."""

    name: str
    path: Path
    sha256: str
    rows: Sequence[Any]


@dataclass(frozen=True)
class LoadedData:
    """Both splits of a recipe; `valid` has no rows when nothing is held out.

    `warnings` are the amber findings of the check, `accepted` the red ones that --allow named.
    """

    train: LoadedSplit
    valid: LoadedSplit
    warnings: tuple[Finding, ...]
    accepted: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class PreparedData:
    """A recipe with its base model and its rendered splits."""

    recipe: Recipe
    base: Base
    base_model: BaseModel
    renderer: "Renderer"
    rows: LoadedData
    train: "RenderedSet[Any]"
    valid: "RenderedSet[Any]"

    @property
    def answers(self) -> "Sequence[RenderedExample]":
        """The rendered validation examples, or the training examples when nothing is held out."""
        rows = self.valid.rows or self.train.rows
        return [row if self.recipe.method != "dpo" else row.chosen for row in rows]

    @property
    def identity(self) -> dict[str, str]:
        """The hashes of everything that decides the weights; equal ones give equal weights on the same kind of CPU."""
        return {
            "recipe": self.recipe.sha256,
            "training file": self.rows.train.sha256,
            "held-out file": self.rows.valid.sha256,
            "base model": self.base_weights_sha256,
            "chat template": self.renderer.chat_template_sha256,
        }

    @cached_property
    def base_weights_sha256(self) -> str:
        """Identity of the base's weights: over the names and hashes of its safetensors files."""
        shards = sorted(self.base.directory.glob("*.safetensors"))
        listed = "".join(f"{file_sha256(shard)}  {shard.name}\n" for shard in shards)
        return hashlib.sha256(listed.encode()).hexdigest()


def load_data(recipe: Recipe, allow: Collection[str] = ()) -> LoadedData:
    """Check the files of a recipe as `turntable data check` does and hold out validation rows.

    Raises `DataError` with every red finding that `allow` does not name.
    """
    paths = [recipe.train_path, *([] if recipe.valid_path is None else [recipe.valid_path])]
    kind: Kind = "pairs" if recipe.method == "dpo" else "conversations"
    report = lint_files(paths, LintOptions(kind=kind, for_training=True))
    refuse_red(report, allow)
    train = report.files[0]
    if recipe.valid_path is None:
        kept, held_out = _hold_out(report, recipe)
        name, valid = recipe.train, train
    else:
        kept, held_out = train.kept, report.files[1].kept
        name, valid = str(recipe.valid), report.files[1]
    return LoadedData(
        LoadedSplit(recipe.train, train.path, train.sha256, tuple(kept)),
        LoadedSplit(name, valid.path, valid.sha256, tuple(held_out)),
        tuple(finding for finding in report.findings if finding.grade == AMBER),
        tuple(finding for finding in report.findings if finding.grade == RED),
    )


def prepare_data(recipe: Recipe, rows: LoadedData, data_dir: Path, console: Console) -> PreparedData:
    """Find the base and render all rows with its template; raises `DataError`, `RunError`."""
    base = find_base(recipe.base_model, relative_to=recipe.directory, data_dir=data_dir, console=console)
    from trainer.training.loss_mask import Renderer, render_all

    try:
        base_model = BaseModel.read(base.directory)
    except AdapterError as error:
        raise RunError(f"base_model: {error}") from error
    renderer = Renderer.load(base.directory)
    limit = min(recipe.training.max_length, renderer.longest_context)
    render: Any = renderer.render_pair if recipe.method == "dpo" else renderer.render

    def rendered(split: LoadedSplit) -> "RenderedSet[Any]":
        rows: Sequence[Any] = split.rows
        return render_all(render, split.path, rows, max_length=limit, allow_drop=recipe.training.allow_drop)

    return PreparedData(recipe, base, base_model, renderer, rows, rendered(rows.train), rendered(rows.valid))


def _hold_out(report: LintReport, recipe: Recipe) -> tuple[list[Any], list[Any]]:
    """Split the training file by near-duplicate clusters; preference pairs are counted by their prompts."""
    rows, clusters = report.files[0].kept, report.comparisons.clusters
    keys: list[int | str] = [_prompt(row) if isinstance(row, Pair) else int(row.row_id[:16], 16) for row in rows]
    if recipe.method == "dpo" and recipe.valid_fraction and len(set(clusters.tolist())) < 2:
        message = "has one prompt, or near-duplicates of one, so none can be held out; add pairs or set valid"
        raise DataError([Problem(str(recipe.train_path), None, message)])
    is_held_out = hold_out(keys, clusters, recipe.valid_fraction, recipe.seed)
    splits: tuple[list[Any], list[Any]] = ([], [])
    for row, held_out in zip(rows, is_held_out.tolist(), strict=True):
        splits[held_out].append(row)
    return splits


def _prompt(pair: Pair) -> str:
    answer = next(index for index, message in enumerate(pair.preferred.messages) if message.in_loss)
    return repr(pair.preferred.messages[:answer])
