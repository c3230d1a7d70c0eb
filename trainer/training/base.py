"""Find the base model of a run: the embedded one, a folder, or a hub name in the local cache."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from trainer.errors import RunError
from trainer.training.metrics_log import base_model_progress
from trainer.training.recipe import EMBEDDED

BASE_MODEL_FOLDER = "base-model"


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk; `name` goes into adapter_config.json and never contains a path of this machine."""

    name: str
    directory: Path


def prepare_libraries() -> None:
    """Keep the Hugging Face libraries quiet and off the network, unless HF_HUB_OFFLINE=0 asks otherwise.

    Must run before they and torch are imported: they read these variables once. Torch's threads sleep while they wait:
    spinning threads starve each other when an engine shares the cores (by a factor of 3 and more).
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports missing kernels at import


def find_base(base_model: str, *, relative_to: Path, data_dir: Path, console: Console) -> Base:
    """Return the base model a recipe names; the embedded one is built on first use. Raises `RunError`."""
    prepare_libraries()
    if base_model == EMBEDDED:
        from trainer.base_model import build_base_model

        with base_model_progress(console) as report:
            return Base(EMBEDDED, build_base_model(data_dir / BASE_MODEL_FOLDER, report=report))
    folder = relative_to / base_model
    if (folder / "config.json").is_file():
        return Base(folder.resolve().name, folder)
    return Base(base_model, _from_hub(base_model, folder))


def _from_hub(name: str, folder: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=os.environ["HF_HUB_OFFLINE"] != "0"))
    except HFValidationError as error:
        raise RunError(f"base_model: {folder} has no config.json; give a model's folder or a hub name.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise RunError(
            f"base_model: {name} is neither a folder beside the recipe nor in the local hub cache; download it with "
            f"`hf download {name}`, or set HF_HUB_OFFLINE=0 to let the run fetch it."
        ) from error
