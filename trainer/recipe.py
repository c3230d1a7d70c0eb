"""The recipe: everything that decides what a run trains, read from a short TOML file and frozen.

Defaults are what published comparisons of LoRA settings agree on: all linear layers, rank 16, ten times the
learning rate of full fine-tuning, small batches. A field that is unknown, out of range or at odds with another is
an error: a recipe never half applies.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adapters import AdapterError, AdapterRef
from adapters.peft_config import ENGINE_RANKS
from trainer.toml_file import read_toml

EMBEDDED = "embedded"
_LARGEST_BATCH = 32
_UNSERVED_MODULES = ("embed_tokens", "lm_head")


class Lora(BaseModel):
    """`[lora]`: the shape of the adapter, in PEFT's words; only what the engine can serve is offered."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    r: int = 16
    lora_alpha: Annotated[int, Field(gt=0)] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    use_rslora: bool = False

    @field_validator("r")
    @classmethod
    def _served_rank(cls, r: int) -> int:
        if r not in ENGINE_RANKS:
            raise ValueError(
                f"is {r}, a rank the engine does not take; use one of {', '.join(map(str, ENGINE_RANKS))}."
            )
        return r

    @field_validator("target_modules", mode="before")
    @classmethod
    def _served_modules(cls, targets: object) -> object:
        if targets == "all-linear":
            return targets
        if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
            raise ValueError(f'is {targets!r}; write "all-linear" or a list such as ["q_proj", "v_proj"].')
        unserved = [name for name in _UNSERVED_MODULES if name in targets]
        if unserved:
            raise ValueError(f"names {unserved[0]}, which the engine does not adapt; name linear layers only.")
        return tuple(targets)


class Training(BaseModel):
    """`[training]`: the optimisation, in the words of transformers; `warmup_fraction` is the share of all steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    num_train_epochs: Annotated[int, Field(gt=0)] = 3
    per_device_train_batch_size: Annotated[int, Field(gt=0)] = 8
    gradient_accumulation_steps: Annotated[int, Field(gt=0)] = 1
    allow_large_batch: bool = False
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.03
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    max_length: Annotated[int, Field(ge=8)] = 1024
    allow_drop: bool = False
    gradient_checkpointing: bool = False

    @property
    def effective_batch_size(self) -> int:
        """Rows per optimiser step on one device."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.effective_batch_size > _LARGEST_BATCH and not self.allow_large_batch:
            raise ValueError(
                f"has an effective batch of {self.effective_batch_size} rows, and LoRA learns worse above "
                f"{_LARGEST_BATCH}; lower per_device_train_batch_size or gradient_accumulation_steps, or set "
                "allow_large_batch = true."
            )
        if self.lr_scheduler_type == "constant" and "warmup_fraction" in self.model_fields_set:
            raise ValueError(
                'sets warmup_fraction, which lr_scheduler_type = "constant" ignores; use "constant_with_warmup".'
            )
        return self


class Recipe(BaseModel):
    """One frozen recipe. Paths inside are as written; `train_path` and `valid_path` are relative to the file's folder.

    `base_model` is `embedded`, the folder of a model (relative to the recipe) or a hub name. Without `valid`, the share
    `valid_fraction` of the training rows is held out; 0 holds out none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    base_model: Annotated[str, Field(min_length=1)] = EMBEDDED
    train: Annotated[str, Field(min_length=1)]
    valid: Annotated[str, Field(min_length=1)] | None = None
    valid_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    lora: Lora = Lora()
    training: Training = Training()
    directory: Annotated[Path, Field(exclude=True, repr=False)]

    @field_validator("name")
    @classmethod
    def _adapter_name(cls, name: str) -> str:
        try:
            ref = AdapterRef.parse(name)
        except AdapterError as error:
            raise ValueError(f"is not usable: {error}") from error
        if str(ref) != ref.name:
            raise ValueError(f"is {name!r}; write the adapter's name alone, versions are given by the gateway.")
        return name

    @model_validator(mode="after")
    def _one_validation_source(self) -> Self:
        if self.valid is not None and "valid_fraction" in self.model_fields_set:
            raise ValueError("valid and valid_fraction are both set; keep one of them.")
        return self

    @property
    def train_path(self) -> Path:
        """Where the training rows are."""
        return self.directory / self.train

    @property
    def valid_path(self) -> Path | None:
        """Where the held-out rows are, or None when they are split off the training file."""
        return self.directory / self.valid if self.valid is not None else None

    @property
    def sha256(self) -> str:
        """Identity of the recipe's content, whatever the spelling of the file or the folder it lies in."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe; raises `RecipeError` naming every field at fault."""
    return read_toml(path, Recipe)
