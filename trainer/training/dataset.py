"""Everything a run is made of, checked and rendered: the rows of both sides, the base model, and their identities."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from adapters import AdapterError, BaseModel
from adapters.manifest import file_sha256
from trainer.data.dataset import PairDataset, read_pairs
from trainer.data.schema import Example, Pair
from trainer.data.splits import read_split
from trainer.errors import DataError, Problem, RunError
from trainer.training.base import Base, find_base
from trainer.training.recipe import Recipe

if TYPE_CHECKING:
    from trainer.training.loss_mask import RenderedExample, RenderedSet, Renderer


@dataclass(frozen=True)
class LoadedSplit:
    """One side of a run as read: `name` is the file as the recipe writes it."""

    name: str
    path: Path
    sha256: str
    rows: Sequence[Example] | Sequence[Pair]


@dataclass(frozen=True)
class LoadedData:
    """Both sides of a run; `valid` has no rows when nothing is held out."""

    train: LoadedSplit
    valid: LoadedSplit
    warnings: Sequence[Problem]


@dataclass(frozen=True)
class PreparedData:
    """A recipe with its base and its rendered rows."""

    recipe: Recipe
    base: Base
    base_model: BaseModel
    renderer: "Renderer"
    rows: LoadedData
    train: "RenderedSet[Any]"
    valid: "RenderedSet[Any]"

    @property
    def answers(self) -> "Sequence[RenderedExample]":
        """Held-out conversations with what is learnt in them, or training ones when nothing is held out."""
        rows = self.valid.rows or self.train.rows
        return [row if self.recipe.method != "dpo" else row.chosen for row in rows]

    @property
    def identity(self) -> dict[str, str]:
        """What a run is a run of; with the same, it gives the same weights on the same kind of processor."""
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


def load_data(recipe: Recipe) -> LoadedData:
    """Read and check the files of a recipe; raises `DataError` with the problems of all of them."""
    valid_name = recipe.valid or recipe.train
    if recipe.method != "dpo":
        split = read_split(recipe)
        train, valid = split.train, split.valid
        return LoadedData(
            LoadedSplit(recipe.train, train.path, train.sha256, train.examples),
            LoadedSplit(valid_name, valid.path, valid.sha256, valid.examples),
            split.warnings,
        )
    pairs = read_pairs(recipe.train_path)
    if recipe.valid_path is None:
        kept, held_out = _hold_out_pairs(pairs, recipe)
        return LoadedData(_pairs(recipe.train, pairs, kept), _pairs(recipe.train, pairs, held_out), pairs.warnings)
    valid_pairs = read_pairs(recipe.valid_path)
    return LoadedData(
        _pairs(recipe.train, pairs, pairs.pairs),
        _pairs(valid_name, valid_pairs, valid_pairs.pairs),
        (*pairs.warnings, *valid_pairs.warnings),
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

    def rendered(side: LoadedSplit) -> "RenderedSet[Any]":
        rows: Sequence[Any] = side.rows
        return render_all(render, side.path, rows, max_length=limit, allow_drop=recipe.training.allow_drop)

    return PreparedData(recipe, base, base_model, renderer, rows, rendered(rows.train), rendered(rows.valid))


def _pairs(name: str, dataset: PairDataset, pairs: Sequence[Pair]) -> LoadedSplit:
    return LoadedSplit(name, dataset.path, dataset.sha256, pairs)


def _hold_out_pairs(dataset: PairDataset, recipe: Recipe) -> tuple[list[Pair], list[Pair]]:
    """A random split by prompt, so that no prompt stands on both sides."""
    prompts = [_prompt(pair) for pair in dataset.pairs]
    distinct = sorted(set(prompts))
    if len(distinct) < 2 and recipe.valid_fraction:
        raise DataError([Problem(str(dataset.path), None, "holds one prompt, so none can be held out; add pairs")])
    share = recipe.valid_fraction
    wanted = min(max(1, round(share * len(distinct))), len(distinct) - 1) if share else 0
    chosen = set(random.Random(recipe.seed).sample(distinct, wanted))  # noqa: S311 - a seeded split, not a secret
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, prompt in zip(dataset.pairs, prompts, strict=True):
        sides[prompt in chosen].append(pair)
    return sides


def _prompt(pair: Pair) -> str:
    learnt = next(index for index, message in enumerate(pair.preferred.messages) if message.learnt)
    return repr(pair.preferred.messages[:learnt])
