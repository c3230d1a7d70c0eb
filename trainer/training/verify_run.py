"""Verify a finished run by training it again: the same recipe, data, base and seed give the same bytes on a CPU."""

import json
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from adapters.manifest import PARITY_FILE, file_sha256
from trainer.data.sources import local_rows
from trainer.errors import RunError
from trainer.training.artifacts import RUN_FILE
from trainer.training.base import prepare_libraries
from trainer.training.recipe import EMBEDDED, PREFERENCE_METHODS, Recipe
from trainer.training.run import Run, TrainOptions, train
from trainer.training.run_metadata import cpu_arithmetic, read_metadata

# Two independent deviations of one size: over tens of tokens their root mean squares stay within this factor.
_MAX_RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The result of training a run again, with a sentence for the user."""

    same: bool
    sentence: str


def verify(directory: Path, data_dir: Path, console: Console) -> Reproduction:
    """Train the run in `directory` again and compare; raises `RunError` where conditions cannot be equal.

    On the kind of CPU that trained it the bytes must be equal. Another kind rounds differently: there the run is
    trained twice, with two sets of kernels, and the original may differ from the first as much as these two from each
    other.
    """
    facts, locations = read_metadata(directory), _read(directory / RUN_FILE)
    recipe = _recipe(facts, locations, data_dir)
    _refuse_other_conditions(facts)
    prepare_libraries()
    import torch

    from trainer.training.distributed import refuse_several_processes

    refuse_several_processes("--verify-run")

    threads = torch.get_num_threads()
    torch.set_num_threads(facts["threads"])
    try:
        with tempfile.TemporaryDirectory(prefix="turntable-verify-") as scratch:
            again = _train(recipe, data_dir, console, Path(scratch) / "again", facts)
            if facts.get("arithmetic") in (None, cpu_arithmetic()):
                return _compare_bytes(directory, facts, again.facts)
            with _other_kernels():
                otherwise = _train(recipe, data_dir, console, Path(scratch) / "otherwise", facts)
            return _compare_rounding(directory, again.directory, otherwise.directory)
    finally:
        torch.set_num_threads(threads)


def _train(recipe: Recipe, data_dir: Path, console: Console, out: Path, facts: Mapping[str, Any]) -> Run:
    given = (facts.get("despite_data") or {}).get("reason", "repeats a finished run")
    run = train(recipe, data_dir, console, out=out, options=TrainOptions(despite_data=given))
    assert run is not None, "world size is 1"
    begun = [(one.get("initial_adapter") or {}).get("digest") for one in (run.facts, facts)]
    if begun[0] != begun[1]:
        raise RunError(f"the run began from another adapter, {str(begun[1])[:12]}; restore it at lora.init.")
    if changed := [name for name in ("base_weights_sha256", "chat_template_sha256") if run.facts[name] != facts[name]]:
        raise RunError(f"the run was trained on another base: {changed[0]} differs; restore that base.")
    return run


@contextmanager
def _other_kernels() -> Iterator[None]:
    """Compute with kernels that sum in another order within the block."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")  # it warns of Intel GPUs on every CPU
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _compare_bytes(directory: Path, before: Mapping[str, Any], again: Mapping[str, Any]) -> Reproduction:
    if before["digest"] == again["digest"]:
        return Reproduction(True, f"{directory} is reproduced: digest {before['digest'][:12]}")
    newer = {library: version(library) for library in before["versions"] if library != "python"}
    other = [f"{name} {before['versions'][name]}" for name, now in newer.items() if now != before["versions"][name]]
    why = f"; it was trained with {', '.join(other)}" if other else ""
    losses = f"eval loss {again['eval_loss']} now, {before['eval_loss']} then"
    return Reproduction(
        False,
        f"{directory} is not reproduced: digest {again['digest'][:12]} now, {before['digest'][:12]} then, "
        f"{losses}{why}",
    )


def _compare_rounding(directory: Path, again: Path, otherwise: Path) -> Reproduction:
    """Compare the recorded log-probabilities of validation tokens by their root mean squares."""
    recorded, first, second = (_logprobs(folder) for folder in (directory, again, otherwise))
    if not recorded or len(recorded) != len(first):
        raise RunError(f"{directory} has no log-probabilities of these rows; verify it on the machine that trained it.")
    difference, rounding = math.dist(recorded, first), math.dist(first, second)
    each = math.sqrt(len(recorded))
    figures = (
        f"it was trained on a CPU that rounds differently, so bytes differ; log-probabilities of {len(recorded)} "
        f"validation tokens differ by {difference / each:.4f}, those of two sets of kernels here by "
        f"{rounding / each:.4f}"
    )
    same = difference <= _MAX_RATIO * rounding
    return Reproduction(same, f"{directory} is {'' if same else 'not '}reproduced: {figures}")


def _logprobs(directory: Path) -> list[float]:
    rows = _read(directory / PARITY_FILE)["rows"]
    return [value for row in rows for value in row.get("adapter", row["base"])]


def _recipe(facts: Mapping[str, Any], locations: Mapping[str, Any], data_dir: Path) -> Recipe:
    """Rebuild the recipe; fields that it may not set, because of others, are left out of its complete dump."""
    document = dict(facts["recipe"])
    if document["method"] == "full":
        document.pop("lora")
    for table in PREFERENCE_METHODS:
        if document["method"] != table:
            document.pop(table, None)
    if document["valid"] is not None:
        document.pop("valid_fraction")
    if document["training"]["lr_scheduler_type"] == "constant":
        document["training"] = {k: v for k, v in document["training"].items() if k != "warmup_fraction"}
    if document["base_model"] != EMBEDDED:
        document["base_model"] = locations["base_folder"]
    recipe = Recipe.model_validate_json(json.dumps({**document, "directory": locations["recipe_folder"]}))
    train, valid = facts["data"]["train"], facts["data"]["valid"]
    kept = [train] if isinstance(recipe.train, str) else train["files"]
    files = [(file.path, recorded["sha256"]) for file, recorded in zip(recipe.train_files, kept, strict=True)]
    files += [] if recipe.valid is None else [(recipe.valid, valid["sha256"])]
    for name, expected in files:
        _refuse_changed_file(local_rows(name, recipe.directory, data_dir), expected)
    return recipe


def _refuse_changed_file(path: Path, expected: str) -> None:
    if not path.is_file() or file_sha256(path) != expected:
        raise RunError(f"{path} is not the file that was trained on; restore it (sha256 {expected[:12]}).")


def _refuse_other_conditions(facts: Mapping[str, Any]) -> None:
    if facts["device"] != "cpu" or facts["world_size"] != 1:
        raise RunError(
            f"the run was trained by {facts['world_size']} process(es) on {facts['device']}; only one process on a CPU "
            "gives the same bytes twice."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read; give the directory of a finished run of this machine.") from error
    return document
