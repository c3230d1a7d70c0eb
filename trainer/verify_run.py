"""Training a finished run again and comparing: the same recipe, data, base and seed give the same bytes on a CPU."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from adapters.manifest import TRAINING_FILE
from trainer.artifact import RUN_FILE
from trainer.base import prepare_libraries
from trainer.errors import RunError
from trainer.recipe import EMBEDDED, Recipe
from trainer.train import train


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the run came out the same, and what to tell."""

    same: bool
    sentence: str


def verify(directory: Path, data_dir: Path, console: Console) -> Verdict:
    """Train the run in `directory` again; raises `RunError` when that cannot be done faithfully."""
    facts, places = _read(directory / TRAINING_FILE), _read(directory / RUN_FILE)
    recipe = _recipe(facts, places)
    _refuse_other_conditions(facts)
    prepare_libraries()
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(facts["threads"])
    try:
        with tempfile.TemporaryDirectory(prefix="turntable-verify-") as scratch:
            run = train(recipe, data_dir, console, out=Path(scratch) / "again")
    finally:
        torch.set_num_threads(threads)
    assert run is not None, "one process has a run"
    if changed := [name for name in ("base_weights_sha256", "chat_template_sha256") if run.facts[name] != facts[name]]:
        raise RunError(f"{directory} was trained on another base: {changed[0]} differs; restore that base.")
    return _compare(directory, facts, run.facts)


def _compare(directory: Path, before: Mapping[str, Any], again: Mapping[str, Any]) -> Verdict:
    if before["digest"] == again["digest"]:
        return Verdict(True, f"{directory} is reproduced: digest {before['digest'][:12]}")
    newer = {library: version(library) for library in before["versions"] if library != "python"}
    other = [f"{name} {before['versions'][name]}" for name, now in newer.items() if now != before["versions"][name]]
    why = f"; it was trained with {', '.join(other)}" if other else ""
    losses = f"held-out loss {again['valid_loss']} now, {before['valid_loss']} then"
    return Verdict(
        False,
        f"{directory} is not reproduced: digest {again['digest'][:12]} now, {before['digest'][:12]} then, "
        f"{losses}{why}",
    )


def _recipe(facts: Mapping[str, Any], places: Mapping[str, Any]) -> Recipe:
    document = dict(facts["recipe"])
    if document["method"] == "full":
        document.pop("lora")
    if document["method"] != "dpo":
        document.pop("dpo")
    if document["valid"] is not None:
        document.pop("valid_fraction")
    if document["training"]["lr_scheduler_type"] == "constant":
        document["training"] = {k: v for k, v in document["training"].items() if k != "warmup_fraction"}
    if document["base_model"] != EMBEDDED:
        document["base_model"] = places["base_folder"]
    recipe = Recipe.model_validate_json(json.dumps({**document, "directory": places["recipe_folder"]}))
    for side, path in (("train", recipe.train_path), ("valid", recipe.valid_path)):
        _refuse_changed_file(path, facts["data"][side]["sha256"])
    return recipe


def _refuse_changed_file(path: Path | None, expected: str) -> None:
    from adapters.manifest import file_sha256

    if path is not None and (not path.is_file() or file_sha256(path) != expected):
        raise RunError(f"{path} is not the file that was trained on; restore it (sha256 {expected[:12]}).")


def _refuse_other_conditions(facts: Mapping[str, Any]) -> None:
    if facts["device"] != "cpu" or facts["processes"] != 1:
        raise RunError(
            f"the run was trained by {facts['processes']} process(es) on {facts['device']}; only one process on a CPU "
            "gives the same bytes twice."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read; give the directory of a finished run of this machine.") from error
    return document
