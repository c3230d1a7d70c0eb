"""Load the rows of a recipe, hold out validation rows, and render both splits with the base's chat template."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from adapters import AdapterError, BaseModel
from adapters.manifest import file_sha256
from trainer.data.findings import AMBER, RED, Finding
from trainer.data.lint import LintOptions, LintReport, lint_files, refuse_red
from trainer.data.loaders import Kind
from trainer.data.schema import Pair
from trainer.data.sources import local_rows
from trainer.data.split import hold_out
from trainer.errors import DataError, Problem, RecipeError, RunError
from trainer.training.base import Base, find_base
from trainer.training.chat_template import TemplateOptions
from trainer.training.recipe import Recipe
from turntable.options import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from trainer.training.initial_adapter import InitialAdapter
    from trainer.training.loss_mask import RenderedExample, RenderedSet, Renderer


@dataclass(frozen=True)
class LoadedFile:
    """The examples (pairs for dpo) of one file; `name` is the file as the recipe writes it, `sha256` of its rows.

    `weight` is how often an epoch goes over the file: rows are repeated, or left out, accordingly.
    """

    name: str
    path: Path
    sha256: str
    rows: tuple[Any, ...]
    weight: float = 1.0

    @property
    def document(self) -> dict[str, Any]:
        """The file as training.json keeps it."""
        return {"file": self.name, "sha256": self.sha256, "weight": self.weight}


@dataclass(frozen=True)
class LoadedSplit:
    """The files of one split."""

    files: tuple[LoadedFile, ...]

    @property
    def name(self) -> str:
        """The names of its files."""
        return ", ".join(file.name for file in self.files)

    @property
    def sha256(self) -> str:
        """Identity of its rows: the hash of its file, or a hash over those of its files with their weights."""
        if len(self.files) == 1 and self.files[0].weight == 1:
            return self.files[0].sha256
        listed = "".join(f"{file.sha256}  {file.weight:g}\n" for file in self.files)
        return hashlib.sha256(listed.encode()).hexdigest()

    @property
    def rows(self) -> tuple[Any, ...]:
        """The rows of all its files."""
        return tuple(row for file in self.files for row in file.rows)


@dataclass(frozen=True)
class LoadedData:
    """Both splits of a recipe; `valid` has no rows when nothing is held out.

    `warnings` are the amber findings of the check, `accepted` the red ones that are trained on for the reason
    `despite`.
    """

    train: LoadedSplit
    valid: LoadedSplit
    warnings: tuple[Finding, ...]
    accepted: tuple[Finding, ...] = ()
    despite: str | None = None

    @property
    def despite_document(self) -> dict[str, Any] | None:
        """The accepted findings with their reason, as training.json keeps them; None without any."""
        if not self.accepted:
            return None
        return {"reason": self.despite, "findings": {finding.name: finding.count for finding in self.accepted}}


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
    initial: "InitialAdapter | None" = None

    @property
    def answers(self) -> "Sequence[RenderedExample]":
        """The rendered validation rows, or the training rows when nothing is held out; of each its last example."""
        from trainer.training.loss_mask import answer_of

        rows = {row.row_id: row for row in self.valid.rows or self.train.rows}.values()
        return [answer_of(row) for row in rows]

    @property
    def identity(self) -> dict[str, str]:
        """The hashes of everything that decides the weights; equal ones give equal weights on the same kind of CPU."""
        return {
            "recipe": self.recipe.sha256,
            "training file": self.rows.train.sha256,
            "held-out file": self.rows.valid.sha256,
            "base model": self.base_weights_sha256,
            "chat template": self.renderer.chat_template_sha256,
            **({"initial adapter": self.initial.digest} if self.initial else {}),
        }

    @cached_property
    def base_weights_sha256(self) -> str:
        """Identity of the base's weights: over the names and hashes of its safetensors files."""
        shards = sorted(self.base.directory.glob("*.safetensors"))
        listed = "".join(f"{file_sha256(shard)}  {shard.name}\n" for shard in shards)
        return hashlib.sha256(listed.encode()).hexdigest()


def load_data(recipe: Recipe, despite: str | None = None, data_dir: Path = DEFAULT_DATA_DIR) -> LoadedData:
    """Check the files of a recipe as `turntable data check` does and hold out validation rows.

    Raises `DataError` with every red finding, unless `despite` gives a reason to train on such rows.
    """
    named = [*(file.path for file in recipe.train_files), *([] if recipe.valid is None else [recipe.valid])]
    paths = [local_rows(name, recipe.directory, data_dir) for name in named]
    kind: Kind = "pairs" if recipe.learns_pairs else "ratings" if recipe.method == "kto" else "conversations"
    report = lint_files(paths, LintOptions(kind=kind, for_training=True))
    refuse_red(report, despite)
    train, held_out = _splits(report, recipe)
    return LoadedData(
        LoadedSplit(_mixed(recipe, train)),
        LoadedSplit(held_out),
        (
            *(finding for finding in report.findings if finding.grade == AMBER),
            *_too_many_held_out(recipe, train, held_out),
        ),
        tuple(finding for finding in report.findings if finding.grade == RED),
        despite,
    )


def template_options(recipe: Recipe) -> TemplateOptions:
    """Return how a recipe renders rows; raises `RecipeError` when its template cannot be read."""
    data, template = recipe.data, recipe.data.chat_template
    if template is not None and "{{" not in template and "{%" not in template:
        try:
            template = (recipe.directory / template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RecipeError(
                f"data.chat_template: {recipe.directory / template} cannot be read ({reason}); give a Jinja file, or "
                "the template itself."
            ) from error
    return TemplateOptions(template, data.chat_template_kwargs, data.reasoning_content, data.special_tokens)


def prepare_data(recipe: Recipe, rows: LoadedData, data_dir: Path, console: Console) -> PreparedData:
    """Find the base and render all rows with its template; raises `DataError`, `RecipeError`, `RunError`."""
    base = find_base(recipe.base_model, relative_to=recipe.directory, data_dir=data_dir, console=console)
    from trainer.training.loss_mask import RenderedSet, Renderer, render_all

    try:
        base_model = BaseModel.read(base.directory)
    except AdapterError as error:
        raise RunError(f"base_model: {error}") from error
    initial = None
    if recipe.lora.init is not None:
        from trainer.training.initial_adapter import find_initial_adapter

        initial = find_initial_adapter(recipe, base_model, data_dir)
    renderer = Renderer.load(base.directory, template_options(recipe))
    limit = min(recipe.training.max_length, renderer.longest_context)
    render: Any = renderer.render_answers
    if recipe.learns_preferences:
        judged: Any = renderer.render_pair if recipe.learns_pairs else renderer.render_rating
        render = lambda row: (judged(row),)  # noqa: E731

    def rendered(split: LoadedSplit) -> "RenderedSet[Any]":
        sets = [
            render_all(
                *(render, file.path, file.rows),
                max_length=limit,
                allow_drop=recipe.training.allow_drop,
                drop_control_texts=recipe.data.special_tokens == "drop",
            )
            for file in split.files
        ]
        _warn_of_control_texts(split, sets, console)
        return RenderedSet.joined(sets)

    return PreparedData(recipe, base, base_model, renderer, rows, rendered(rows.train), rendered(rows.valid), initial)


def _warn_of_control_texts(split: LoadedSplit, sets: "Sequence[RenderedSet[Any]]", console: Console) -> None:
    for file, rendered in zip(split.files, sets, strict=True):
        if lines := sorted(set(rendered.control_lines)):
            shown = ", ".join(map(str, lines[:10])) + (", …" if len(lines) > 10 else "")
            said = (
                f"{file.path}: {len(lines)} rows contain a control token in their text and are left out (line "
                f'{shown}); set special_tokens = "escape" in [data] to encode them as text, or "stop" to stop'
            )
            console.print(Text.assemble(("warning: ", "yellow"), said), soft_wrap=True)


def _splits(report: LintReport, recipe: Recipe) -> tuple[tuple[LoadedFile, ...], tuple[LoadedFile, ...]]:
    """Return the files of training rows and of validation rows."""
    count = len(recipe.train_files)
    scans, names = report.files[:count], [file.path for file in recipe.train_files]
    if recipe.valid is not None:
        train, valid = [scan.kept for scan in scans], report.files[count]
        held_out = [LoadedFile(recipe.valid, valid.path, valid.sha256, tuple(valid.kept))]
    else:
        parts = _held_out(report, recipe)
        train = [kept for kept, _ in parts]
        held_out = [
            LoadedFile(name, scan.path, scan.sha256, tuple(rows))
            for name, scan, (_, rows) in zip(names, scans, parts, strict=True)
        ]
    weights = [file.weight for file in recipe.train_files]
    kept = [
        LoadedFile(name, scan.path, scan.sha256, tuple(rows), weight)
        for name, scan, rows, weight in zip(names, scans, train, weights, strict=True)
    ]
    return tuple(kept), tuple(held_out)


def _mixed(recipe: Recipe, files: Sequence[LoadedFile]) -> tuple[LoadedFile, ...]:
    """Repeat the rows of each file by its weight; of a fraction, a random part of them is chosen by the seed."""
    mixed = []
    for number, file in enumerate(files):
        times, part = int(file.weight), round((file.weight % 1) * len(file.rows))
        chosen = random.Random(f"{recipe.seed}/{number}").sample(range(len(file.rows)), part)  # noqa: S311 - no secret
        rows = (*file.rows * times, *(file.rows[row] for row in sorted(chosen)))
        if file.rows and not rows:
            fix = f"its weight {file.weight:g} leaves no row; raise it"
            raise DataError([Problem(str(file.path), None, fix)])
        mixed.append(LoadedFile(file.name, file.path, file.sha256, rows, file.weight))
    return tuple(mixed)


def _held_out(report: LintReport, recipe: Recipe) -> list[tuple[list[Any], list[Any]]]:
    """Split each training file by the near-duplicate clusters of all; pairs are counted by their prompts.

    Returns the rows to train on and the held-out ones, file by file.
    """
    rows, clusters = [row for file in report.files for row in file.kept], report.comparisons.clusters
    keys = [_key(row) for row in rows]
    if recipe.learns_pairs and recipe.valid_fraction and len(set(clusters.tolist())) < 2:
        message = "has one prompt, or near-duplicates of one, so none can be held out; add pairs or set valid"
        raise DataError([Problem(str(report.files[0].path), None, message)])
    is_held_out = iter(hold_out(keys, clusters, recipe.valid_fraction, recipe.seed).tolist())
    parts = []
    for file in report.files:
        split: tuple[list[Any], list[Any]] = ([], [])
        for row in file.kept:
            split[next(is_held_out)].append(row)
        parts.append(split)
    return parts


def _too_many_held_out(
    recipe: Recipe, train: Sequence[LoadedFile], held_out: Sequence[LoadedFile]
) -> Iterator[Finding]:
    """Warn of a split that had to hold out more than the recipe asks for."""
    held, kept = ({_key(row) for file in files for row in file.rows} for files in (held_out, train))
    asked = max(1, round(recipe.valid_fraction * len(held | kept)))
    if recipe.valid is None and len(held) > asked:
        message = (
            f"different rows are held out instead of {asked}, because every cluster of near-duplicates is larger than "
            "that; add rows of other kinds, set valid, or set valid_fraction = 0"
        )
        yield Finding(AMBER, "held_out", len(held), message)


def _key(row: Any) -> int | str:
    """Return what the rows of a split are counted by: the row, or of a pair its prompt."""
    return _prompt(row) if isinstance(row, Pair) else int(row.row_id[:16], 16)


def _prompt(pair: Pair) -> str:
    answer = next(index for index, message in enumerate(pair.preferred.messages) if message.in_loss)
    return repr(pair.preferred.messages[:answer])
