"""Finding the base model: the embedded one is built on first use, a hub name is fetched because it was asked for."""

import importlib
import subprocess
import sys
from pathlib import Path

from gateway.settings import EMBEDDED


class ServeError(Exception):
    """Something that keeps the gateway from starting; the message names the fix."""


def find_base_model(model: str, data_dir: Path) -> Path:
    """The directory of the base model's files; raises `ServeError` when there is none."""
    if model == EMBEDDED:
        return _build_embedded(data_dir / "base-model")
    if Path(model).is_dir():
        return Path(model)
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ServeError(
            f"There is no model directory {model}; give a directory, a hub name (org/name), or 'embedded'."
        )
    return _fetch(model)


def _build_embedded(directory: Path) -> Path:
    # A program of its own: building needs torch, which the gateway must not load.
    built = subprocess.run([sys.executable, "-m", "trainer.base_model", "--out", str(directory)], check=False)  # noqa: S603
    if built.returncode:
        raise ServeError("The embedded base model could not be built (see above); or give another with --model.")
    return directory


def _fetch(name: str) -> Path:
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ServeError(f"Fetching {name} needs huggingface_hub; install it or give a local directory.") from error
    try:
        return Path(
            hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"])
        )
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ServeError(f"{name} could not be fetched from the hub ({reason}); give a local directory.") from error
