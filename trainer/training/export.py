"""Export an adapter: its files in PEFT's layout, merged into its base as a model, or as a GGUF file for llama.cpp."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from adapters import AdapterError, AdapterRef, BaseModel, preflight
from adapters.layout import ADAPTER_FILES
from adapters.manifest import CONFIG_FILE
from adapters.peft_config import ENGINE_RANKS, PeftConfig
from adapters.stored import stored_adapter
from trainer.errors import RunError
from trainer.files import disk
from trainer.training.artifacts import RUN_FILE
from trainer.training.base import Base, find_base, prepare_libraries
from trainer.training.gguf_adapter import write_gguf
from trainer.training.merge import Differences, merge
from trainer.training.run_directory import staged

GGUF_FILE = "adapter.gguf"
Format = Literal["peft", "merged", "gguf"]


@dataclass(frozen=True, slots=True)
class ExportedAdapter:
    """What was written, and for a merged model how it differs from base and adapter."""

    path: Path
    differences: Differences | None = None


def export(
    adapter: str, export_format: Format, base_model: str | None, out: Path, data_dir: Path, console: Console
) -> ExportedAdapter:
    """Write an adapter, a folder or a version of the data directory's registry, to the folder `out`.

    Without `base_model`, the base is the one that the adapter was trained on. Raises `RunError`.
    """
    prepare_libraries()
    directory = _located(adapter, data_dir)
    if export_format == "peft":
        with staged(out) as folder, disk(out):
            for name in ADAPTER_FILES:
                if (directory / name).is_file():
                    shutil.copyfile(directory / name, folder / name)
        return ExportedAdapter(out)
    base = _base(directory, base_model, data_dir, console)
    described, config = _checked(directory, base)
    with staged(out) as folder:
        if export_format == "merged":
            return ExportedAdapter(out, merge(directory, config, base.name, described, folder))
        write_gguf(directory, config, base.directory, base.name, folder / GGUF_FILE)
    return ExportedAdapter(out / GGUF_FILE)


def _located(adapter: str, data_dir: Path) -> Path:
    """Return the folder of an adapter."""
    directory = Path(adapter)
    if (directory / CONFIG_FILE).is_file():
        return directory
    if directory.is_dir():
        raise RunError(f"{adapter} has no {CONFIG_FILE}; give the folder of an adapter, or of a run that trained one.")
    try:
        ref = AdapterRef.parse(adapter)
    except AdapterError as error:
        raise RunError(f"{adapter} is neither a folder nor a version; give an adapter's folder, or name@v3.") from error
    try:
        return stored_adapter(ref, data_dir)[1]
    except AdapterError as error:
        raise RunError(f"{adapter} is not exported: {error}") from error


def _base(adapter: Path, given: str | None, data_dir: Path, console: Console) -> Base:
    """Return the given base, else the one of the run, else the one that adapter_config.json names."""
    if given is not None:
        return find_base(given, relative_to=Path(), data_dir=data_dir, console=console)
    folder = _read(adapter / RUN_FILE).get("base_folder")
    named = _read(adapter / CONFIG_FILE).get("base_model_name_or_path")
    if folder is not None and (Path(folder) / "config.json").is_file():
        return Base(named or Path(folder).name, Path(folder))
    if not named:
        raise RunError(f"{adapter} does not name its base model; give it with --base-model.")
    try:
        return find_base(named, relative_to=Path(), data_dir=data_dir, console=console)
    except RunError as error:
        raise RunError(
            f"{adapter} was trained on {named}, which is not on this machine; give its folder with --base-model."
        ) from error


def _checked(adapter: Path, base: Base) -> tuple[BaseModel, PeftConfig]:
    try:
        described = BaseModel.read(base.directory)
        return described, preflight(adapter, described, max_rank=ENGINE_RANKS[-1])
    except AdapterError as error:
        raise RunError(f"{adapter} does not fit {base.name}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return document
