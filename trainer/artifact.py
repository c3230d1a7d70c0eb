"""The run directory: what a run leaves behind, complete or not at all.

    <data dir>/runs/<name>-<utc time>/
        adapter_config.json, adapter_model.safetensors    the adapter in PEFT's layout, tensors in bf16
        training.json                                     the facts of the run
        metrics.jsonl, loss.png                           the loss, step by step
        README.md                                         the model card, generated from the facts

It is built in a hidden neighbour and renamed at the end: an interrupted run leaves nothing that looks like an adapter.
"""

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import AdapterError, BaseModel, preflight
from adapters.manifest import CARD_FILE, CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from trainer.curves import save_loss_curve
from trainer.errors import RunError
from trainer.files import disk
from trainer.model_card import model_card
from trainer.recipe import Lora, Recipe

if TYPE_CHECKING:
    from trainer.optimise import Trained

RUNS_FOLDER = "runs"


def default_directory(data_dir: Path, name: str) -> Path:
    """Where a run goes when nobody says where: named by the recipe and the time, numbered within one second."""
    stem = data_dir / RUNS_FOLDER / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    numbered = (stem.with_name(f"{stem.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([stem], numbered) if not _taken(path))


@contextlib.contextmanager
def staged(final: Path) -> Iterator[Path]:
    """A folder that becomes `final` when the block ends well, and is removed when it does not."""
    if final.exists():
        raise RunError(f"{final} exists already; give another --out or move it away.")
    staging = _staging(final)
    with disk(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
    try:
        yield staging
        with disk(final):
            staging.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_artifact(
    directory: Path, recipe: Recipe, base: BaseModel, base_name: str, trained: "Trained", facts: Mapping[str, Any]
) -> None:
    """Write all files of a run and prove that the adapter is fit to serve; raises `RunError` when it is not."""
    from safetensors.torch import save_file

    config = _adapter_config(recipe.lora, base_name, trained.target_modules)
    with disk(directory):
        save_file(trained.tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
        (directory / WEIGHTS_FILE).chmod(0o644)
        _write_json(directory / CONFIG_FILE, config)
        _write_json(directory / TRAINING_FILE, facts)
        lines = (json.dumps(asdict(step)) for step in trained.metrics)
        (directory / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (directory / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
        save_loss_curve(directory / "loss.png", recipe.name, trained.metrics)
    _verify(directory, expected=set(trained.tensors))
    try:
        preflight(directory, base, max_rank=recipe.lora.r)
    except AdapterError as error:
        raise RunError(f"the trained adapter is not fit to serve: {error}") from error


def _verify(directory: Path, *, expected: set[str]) -> None:
    """Reopen the saved weights: all there, all finite, and no module left as it was."""
    from safetensors.torch import load_file

    tensors = load_file(directory / WEIGHTS_FILE)
    if tensors.keys() != expected:
        raise RunError(f"{WEIGHTS_FILE} holds {len(tensors)} tensors, {len(expected)} were trained; check the disk.")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise RunError(f"the loss diverged: {name} is not finite; lower training.learning_rate.")
        if ".lora_B." in name and not tensor.any():
            raise RunError(f"{name} is all zero: nothing was learnt there; raise training.learning_rate or the epochs.")


def _adapter_config(lora: Lora, base_name: str, target_modules: tuple[str, ...]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": list(target_modules),
        "use_rslora": lora.use_rslora,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _staging(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _taken(path: Path) -> bool:
    return path.exists() or _staging(path).exists()


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
