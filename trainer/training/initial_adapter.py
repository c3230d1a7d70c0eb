"""Find the adapter that a run begins from, `[lora] init`: a folder, or a version in the registry of the data directory.

It must fit the run: the same base, rank, scaling and modules. A preference method then takes it as its reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import AdapterError, AdapterRef, BaseModel, UnknownAdapterError, preflight
from adapters.manifest import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE, content_digest, file_sha256
from adapters.peft_config import ENGINE_RANKS, PeftConfig
from adapters.stored import stored_adapter
from trainer.errors import RunError
from trainer.training.recipe import Lora, Recipe
from trainer.training.run_metadata import read_metadata
from trainer.training.targets import renamed

if TYPE_CHECKING:
    from trainer.training.model import TrainableModel

_PATTERNS = ("rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class InitialAdapter:
    """An adapter that fits a run; `ref` is its version in the registry, or the name of its folder."""

    ref: str
    digest: str
    directory: Path
    training: Mapping[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """The adapter as training.json keeps it; the fields of its own training are None when it was made elsewhere."""
        of_training = {name: self.training.get(name) for name in ("name", "method", "recipe_sha256", "initial_adapter")}
        return {"ref": self.ref, "digest": self.digest, **of_training}


def find_initial_adapter(recipe: Recipe, base: BaseModel, data_dir: Path) -> InitialAdapter | None:
    """Return the adapter that the recipe begins from, None without one; raises `RunError` when it does not fit."""
    init = recipe.lora.init
    if init is None:
        return None
    ref, directory = _located(init, recipe.directory, data_dir)
    try:
        config = preflight(directory, base, max_rank=ENGINE_RANKS[-1])
    except AdapterError as error:
        raise RunError(f"lora.init: {init} is not usable: {error}") from error
    training = read_metadata(directory) if (directory / TRAINING_FILE).is_file() else {}
    _refuse_other_shape(init, recipe.lora, config)
    digest = content_digest(config.raw, file_sha256(directory / WEIGHTS_FILE))
    return InitialAdapter(ref, digest, directory, training)


def load_initial_weights(model: "TrainableModel", initial: InitialAdapter, prefix: tuple[str, str]) -> None:
    """Put the adapter's weights into the model; raises `RunError` when it adapts other modules."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from trainer.training.model import adapter_tensors

    saved = load_file(initial.directory / WEIGHTS_FILE)
    names = {name: renamed(name, prefix) for name in adapter_tensors(model)}
    if other := sorted(set(names.values()) ^ saved.keys()):
        module, has = other[0].rpartition(".lora_")[0], "has" if other[0] in saved else "lacks"
        modules = sorted({name.rpartition(".lora_")[0].rpartition(".")[2] for name in saved})
        raise RunError(
            f"lora.init: {initial.ref} {has} {module}, unlike this recipe; set lora.target_modules to its modules, "
            f"{', '.join(modules)}."
        )
    set_peft_model_state_dict(model.module, {name: saved[stored] for name, stored in names.items()})


def _located(init: str, folder: Path, data_dir: Path) -> tuple[str, Path]:
    """Return the ref and the folder of an adapter."""
    directory = folder / init
    if (directory / CONFIG_FILE).is_file():
        return directory.resolve().name, directory
    if directory.is_dir():
        raise RunError(f"lora.init: {directory} has no {CONFIG_FILE}; name the folder of an adapter or of a run.")
    nothing = f"lora.init: {directory} is no folder"
    try:
        ref = AdapterRef.parse(init)
    except AdapterError as error:
        raise RunError(f"{nothing}, and {init} is no version: write name@v3, or the folder of an adapter.") from error
    try:
        return stored_adapter(ref, data_dir)
    except UnknownAdapterError as error:
        raise RunError(f"{nothing}, and {error}") from error
    except AdapterError as error:
        raise RunError(f"lora.init: {error}") from error


def _refuse_other_shape(init: str, lora: Lora, config: PeftConfig) -> None:
    found: dict[str, Any] = {"r": config.r, "lora_alpha": config.lora_alpha, "use_rslora": config.use_rslora}
    found |= {name: dict(getattr(config, name)) for name in _PATTERNS}
    wanted = {name: getattr(lora, name) for name in found}
    if different := [name for name in found if found[name] != wanted[name]]:
        name = different[0]
        value = found[name]
        raise RunError(
            f"lora.init: {init} has {name} {_toml(value)} and this recipe {_toml(wanted[name])}; set lora.{name} = "
            f"{_toml(value)}."
        )


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(one)}' for key, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
