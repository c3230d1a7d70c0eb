"""Training a finished run again and comparing: the same recipe, data, base and seed give the same bytes on a CPU."""

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

from adapters.manifest import PARITY_FILE, TRAINING_FILE
from trainer.errors import RunError
from trainer.training.artifacts import RUN_FILE
from trainer.training.base import prepare_libraries
from trainer.training.recipe import EMBEDDED, Recipe
from trainer.training.run import Run, train

# Two independent deviations of one size: over tens of tokens their root mean squares stay within this factor.
_AS_NEAR = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the run came out the same, and what to tell."""

    same: bool
    sentence: str


def verify(directory: Path, data_dir: Path, console: Console) -> Verdict:
    """Train the run in `directory` again; raises `RunError` when that cannot be done faithfully.

    On the kind of processor that trained it the bytes must be the same. Another kind rounds otherwise: there the run is
    trained twice more, with two sets of kernels, and the record has to be as near to the first as the two are apart.
    """
    facts, places = _read(directory / TRAINING_FILE), _read(directory / RUN_FILE)
    recipe = _recipe(facts, places)
    _refuse_other_conditions(facts)
    prepare_libraries()
    import torch

    from trainer.training.loop import cpu_arithmetic

    threads = torch.get_num_threads()
    torch.set_num_threads(facts["threads"])
    try:
        with tempfile.TemporaryDirectory(prefix="turntable-verify-") as scratch:
            again = _train(recipe, data_dir, console, Path(scratch) / "again", facts)
            if facts.get("arithmetic") in (None, cpu_arithmetic()):
                return _same_bytes(directory, facts, again.facts)
            with _other_kernels():
                otherwise = _train(recipe, data_dir, console, Path(scratch) / "otherwise", facts)
            return _same_but_for_rounding(directory, again.directory, otherwise.directory)
    finally:
        torch.set_num_threads(threads)


def _train(recipe: Recipe, data_dir: Path, console: Console, out: Path, facts: Mapping[str, Any]) -> Run:
    run = train(recipe, data_dir, console, out=out)
    assert run is not None, "one process has a run"
    if changed := [name for name in ("base_weights_sha256", "chat_template_sha256") if run.facts[name] != facts[name]]:
        raise RunError(f"the run was trained on another base: {changed[0]} differs; restore that base.")
    return run


@contextmanager
def _other_kernels() -> Iterator[None]:
    """Within the block torch computes the same with kernels that sum in another order."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")  # it names Intel GPUs on every processor
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _same_bytes(directory: Path, before: Mapping[str, Any], again: Mapping[str, Any]) -> Verdict:
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


def _same_but_for_rounding(directory: Path, again: Path, otherwise: Path) -> Verdict:
    """Compare the log-probabilities of held-out tokens, recorded beside each run, by their root mean squares."""
    recorded, first, second = (_logprobs(folder) for folder in (directory, again, otherwise))
    if not recorded or len(recorded) != len(first):
        raise RunError(
            f"{directory} holds no log-probabilities of these rows; verify it on the machine that trained it."
        )
    difference, rounding = math.dist(recorded, first), math.dist(first, second)
    each = math.sqrt(len(recorded))
    told = (
        f"it was trained on a processor that rounds otherwise, so bytes differ; log-probabilities of {len(recorded)} "
        f"held-out tokens differ by {difference / each:.4f}, those of two sets of kernels here by {rounding / each:.4f}"
    )
    same = difference <= _AS_NEAR * rounding
    return Verdict(same, f"{directory} is {'' if same else 'not '}reproduced: {told}")


def _logprobs(directory: Path) -> list[float]:
    rows = _read(directory / PARITY_FILE)["rows"]
    return [value for row in rows for value in row.get("adapter", row["base"])]


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
