"""Read and validate a recipe, the TOML file with the settings of a run.

Defaults follow published comparisons of LoRA settings: all linear layers, rank 16, ten times the learning rate of full
fine-tuning, small batches. Unknown, invalid or conflicting fields are rejected with the field name and the allowed
values. docs/reference/recipe.md is generated from these classes.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adapters import AdapterError, AdapterRef
from adapters.peft_config import ENGINE_RANKS, MAX_SCALING, MIN_SCALING, is_plain_key
from adapters.tokenizer_check import RESERVED_TEMPLATE_KWARGS
from trainer.files import read_toml, validated

EMBEDDED = "embedded"
ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
LEARNING_RATES: Mapping[str, float] = MappingProxyType(
    {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5, "dpo": 5e-6, "orpo": 8e-5, "kto": 5e-6}
)
PREFERENCE_METHODS = ("dpo", "orpo", "kto")
_LARGEST_BATCH = 32
_PRESETS = ("all-linear", "attention-only")
_REGEX_SIGNS = set("*+?|()[]^$\\")
_UNSERVED_MODULES = ("embed_tokens", "lm_head")
_Above0 = Field(gt=0)


class Lora(BaseModel):
    """`[lora]`: the shape of the adapter, in PEFT's terms; only options that the engine can serve."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    r: int = Field(16, description="Rank; one that the engine supports.")
    lora_alpha: int = Field(32, gt=0, description="Scale of the adapter: `lora_alpha / r`.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout of the adapter's inputs.")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear",
        description='`"all-linear"`, `"attention-only"` (q, k, v, o), a list of module names, or a regular expression '
        "for whole names.",
    )
    use_rslora: bool = Field(False, description="Scale by `lora_alpha / sqrt(r)` instead, for high ranks.")
    rank_pattern: dict[str, int] = Field({}, description="Other ranks, by module name or regular expression.")
    alpha_pattern: dict[str, int] = Field({}, description="Other values of `lora_alpha`, likewise.")
    init: str | None = Field(
        None,
        min_length=1,
        description="Begin from this adapter, `name@v3` or a folder, which is then also the reference of dpo and kto.",
    )

    @property
    def module_names(self) -> str | tuple[str, ...]:
        """The value for PEFT's `target_modules`."""
        return ATTENTION_MODULES if self.target_modules == "attention-only" else self.target_modules

    @property
    def is_regex(self) -> bool:
        """Whether `target_modules` is a regular expression."""
        return isinstance(self.target_modules, str) and self.target_modules not in _PRESETS

    @property
    def max_rank(self) -> int:
        """The largest rank of any module, which the engine's slots must hold."""
        return max(self.r, *self.rank_pattern.values(), 0)

    @field_validator("r")
    @classmethod
    def _served_rank(cls, r: int) -> int:
        if r not in ENGINE_RANKS:
            raise ValueError(
                f"is {r}, a rank the engine does not support; use one of {', '.join(map(str, ENGINE_RANKS))}."
            )
        return r

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _served_pattern(cls, pattern: dict[str, int]) -> dict[str, int]:
        for key, value in pattern.items():
            if not is_plain_key(key):
                raise ValueError(f"has the key {key!r:.100}; name modules plainly, with at most one '.*'.")
            if not 0 < value <= ENGINE_RANKS[-1]:
                raise ValueError(f"has {value} for {key}; give a number from 1 to {ENGINE_RANKS[-1]}.")
        return pattern

    @model_validator(mode="after")
    def _served_scaling(self) -> Self:
        for key in ("", *self.rank_pattern, *self.alpha_pattern):
            rank, alpha = self.rank_pattern.get(key, self.r), self.alpha_pattern.get(key, self.lora_alpha)
            scaling = alpha / (rank**0.5 if self.use_rslora else rank)
            if not MIN_SCALING <= scaling <= MAX_SCALING:
                raise ValueError(
                    f"scales {key or 'the adapter'} by {scaling:g}, which the gateway refuses; choose alpha and rank "
                    f"for 1/{1 / MIN_SCALING:g} to {MAX_SCALING:g}."
                )
        return self

    @field_validator("target_modules", mode="before")
    @classmethod
    def _served_modules(cls, targets: object) -> object:
        if targets in _PRESETS:
            return targets
        if isinstance(targets, str) and set(targets) & _REGEX_SIGNS:
            return _regex(targets)
        if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
            raise ValueError(
                f'is {targets!r}; write "all-linear", "attention-only" or a list such as ["q_proj", "v_proj"], or a '
                'regular expression such as ".*[.](q|v)_proj".'
            )
        unserved = [name for name in _UNSERVED_MODULES if name in targets]
        if unserved:
            raise ValueError(f"names {unserved[0]}, which the engine does not adapt; name linear layers only.")
        return tuple(targets)


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error}); write one such as '.*[.](q|v)_proj'.") from error
    return pattern


class Training(BaseModel):
    """`[training]`: the optimization, in the terms of transformers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    learning_rate: float = Field(
        2e-4,
        gt=0,
        le=1,
        description="Peak learning rate; unset, 2e-4 for lora and qlora, 5e-6 for dpo and kto, 8e-5 for "
        "orpo, 2e-5 for full.",
    )
    num_train_epochs: int = Field(
        3, gt=0, description="Maximum number of epochs; early stopping may end the run before."
    )
    early_stopping_patience: int = Field(
        1, ge=0, description="Stop after so many evaluations without a lower eval loss; 0 never stops early."
    )
    per_device_train_batch_size: int = Field(
        8, gt=0, description="Rows (pairs for dpo and orpo) in one batch of a process."
    )
    gradient_accumulation_steps: int = Field(1, gt=0, description="Batches per optimizer step, over all processes.")
    max_tokens_per_batch: int = Field(
        8192,
        ge=64,
        description="Larger batches are split into micro-batches of so many tokens: less memory, same result.",
    )
    allow_large_batch: bool = Field(False, description=f"Allow over {_LARGEST_BATCH} rows per step.")
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description="Share of all steps with a rising learning rate.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="Learning-rate schedule after warm-up."
    )
    max_length: int = Field(1024, ge=8, description="Rows with more tokens are left out, never truncated.")
    eval_steps: int | None = Field(
        None, gt=0, description="Optimizer steps between evaluations, with a last one at the end; unset, every epoch."
    )
    save_steps: int | None = Field(
        None, gt=0, description="Optimizer steps between checkpoints for --resume; unset, a tenth of the run."
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's decay of the mean of gradients.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's decay of the mean of squared gradients.")
    adam_epsilon: float = Field(1e-8, gt=0, le=1, description="AdamW's addition to the denominator.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are scaled down to this norm; 0 never clips.")
    allow_drop: bool = Field(False, description="Allow more than 1 % of the rows to be left out.")
    gradient_checkpointing: bool = Field(False, description="Less memory, about a third more time.")

    @property
    def effective_batch_size(self) -> int:
        """Rows per optimizer step, over all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.effective_batch_size > _LARGEST_BATCH and not self.allow_large_batch:
            raise ValueError(
                f"has an effective batch of {self.effective_batch_size} rows, and LoRA trains worse above "
                f"{_LARGEST_BATCH}; lower per_device_train_batch_size or gradient_accumulation_steps, or set "
                "allow_large_batch = true."
            )
        if self.lr_scheduler_type == "constant" and "warmup_fraction" in self.model_fields_set:
            raise ValueError(
                'sets warmup_fraction, which lr_scheduler_type = "constant" ignores; use "constant_with_warmup".'
            )
        return self


class Dpo(BaseModel):
    """`[dpo]`: preference training."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    beta: float = Field(0.1, gt=0, le=2, description="Strength of the penalty for departing from the reference.")


class Orpo(BaseModel):
    """`[orpo]`: preference training without a reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    beta: float = Field(0.1, gt=0, le=2, description="Weight of the odds ratio beside the cross-entropy.")


class Kto(BaseModel):
    """`[kto]`: training on answers that are labelled good or bad, in TRL's terms."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    beta: float = Field(0.1, gt=0, le=2, description="Strength of the penalty for departing from the reference.")
    desirable_weight: float = Field(1.0, gt=0, le=100, description="Factor of the loss of good answers.")
    undesirable_weight: float = Field(
        1.0, gt=0, le=100, description="Factor of the loss of bad answers; balance it with the good ones' number."
    )


class TrainFile(BaseModel):
    """A file of training rows, with how often an epoch goes over its rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str = Field(min_length=1, description="JSON Lines, CSV, Parquet, or `hf://datasets/OWNER/NAME/FILE`.")
    weight: Annotated[float, Field(strict=False)] = Field(
        1.0, gt=0, le=100, description="Times per epoch: 2 trains on each row twice, 0.5 on a random half of the rows."
    )


class Data(BaseModel):
    """`[data]`: how rows become tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    chat_template: str | None = Field(
        None, min_length=1, description="A Jinja file, or the template itself, instead of the base's; serve it too."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="Variables of the template, such as `{enable_thinking = false}`; serving sends them too."
    )
    reasoning_content: Literal["template", "inline", "drop"] = Field(
        "template",
        description='Write reasoning as the template does, `"inline"` as `<think>…</think>`, or `"drop"` it.',
    )
    special_tokens: Literal["drop", "escape", "stop"] = Field(
        "drop",
        description='Rows with a literal control token: `"drop"` them, `"escape"` it (encoded as text), or `"stop"`.',
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables_of_the_template(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if reserved := [name for name in kwargs if name in RESERVED_TEMPLATE_KWARGS]:
            raise ValueError(f"sets {reserved[0]}, which the engine sets itself; leave it out.")
        return kwargs


class Sweep(BaseModel):
    """`[sweep]`: the values that `turntable train --sweep` combines."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    r: Annotated[tuple[int, ...], Field(strict=False)] = Field((), description="Ranks to try.")
    learning_rate: Annotated[tuple[float, ...], Field(strict=False)] = Field((), description="Learning rates to try.")
    seed: Annotated[tuple[int, ...], Field(strict=False)] = Field((), description="Seeds to try.")


class Recipe(BaseModel):
    """One frozen recipe. Paths are as written; `train_paths` and `valid_path` are relative to the file's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(description="The adapter's name.")
    method: Literal["lora", "qlora", "full", "dpo", "orpo", "kto"] = Field("lora", description="Training method.")
    base_model: str = Field(
        EMBEDDED, min_length=1, description="`embedded`, a model's folder (relative to the recipe) or a hub name."
    )
    train: Annotated[str, Field(min_length=1)] | Annotated[tuple[TrainFile, ...], Field(min_length=1)] = Field(
        description="The training rows, chat `messages`, preference pairs for dpo and orpo, or rows with a `label` for "
        "kto: a file, or a list of files or `{path, weight}`.",
    )
    valid: str | None = Field(
        None, min_length=1, description="The validation rows; unset, some of `train` are held out."
    )
    valid_fraction: float = Field(0.1, ge=0, le=0.5, description="Share of the rows to hold out; 0 for none.")
    seed: int = Field(0, ge=0, lt=2**31, description="Same recipe, data and seed: same bytes, on the same kind of CPU.")
    lora: Lora = Field(Lora(), description="The table below.")
    training: Training = Field(Training(), description="The table below.")
    data: Data = Field(Data(), description="The table below.")
    dpo: Dpo = Field(Dpo(), description="The table below; for dpo alone.")
    orpo: Orpo = Field(Orpo(), description="The table below; for orpo alone.")
    kto: Kto = Field(Kto(), description="The table below; for kto alone.")
    sweep: Sweep = Field(Sweep(), description="The table below; read by `--sweep` alone.")
    directory: Annotated[Path, Field(exclude=True, repr=False)]

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, data: Any) -> Any:
        """Fill in the learning rate, whose default depends on the method, so that a recipe shows it."""
        if not isinstance(data, dict) or not isinstance(data.get("training", {}), dict):
            return data
        rate = LEARNING_RATES.get(str(data.get("method", "lora")), LEARNING_RATES["lora"])
        return {**data, "training": {"learning_rate": rate, **data.get("training", {})}}

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        if self.method == "full" and "lora" in self.model_fields_set:
            raise ValueError('method = "full" trains every weight and has no adapter; remove [lora].')
        for table in PREFERENCE_METHODS:
            if self.method != table and table in self.model_fields_set:
                raise ValueError(
                    f'[{table}] is set, but method is "{self.method}"; write method = "{table}" or remove the table.'
                )
        return self

    @field_validator("train", mode="before")
    @classmethod
    def _files(cls, train: object) -> object:
        if not isinstance(train, list | tuple):
            return train
        return tuple({"path": one} if isinstance(one, str) else one for one in train)

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

    def trials(self) -> "list[Recipe]":
        """Return the recipes of a sweep, every rank with every learning rate and seed; raises `RecipeError`."""
        sweep = self.sweep
        ranks, rates = sweep.r or (self.lora.r,), sweep.learning_rate or (self.training.learning_rate,)
        return [self._trial(r, rate, seed) for r, rate, seed in product(ranks, rates, sweep.seed or (self.seed,))]

    def _trial(self, r: int, learning_rate: float, seed: int) -> "Recipe":
        document = self.model_dump(mode="json", exclude={"sweep"}, exclude_unset=True)
        document["training"] = {**document.get("training", {}), "learning_rate": learning_rate}
        if self.method != "full":
            document["lora"] = {**document.get("lora", {}), "r": r}
        return validated({**document, "seed": seed, "directory": self.directory}, Recipe, "[sweep]")

    @property
    def learns_preferences(self) -> bool:
        """Whether the method learns from judged answers instead of from examples alone."""
        return self.method in PREFERENCE_METHODS

    @property
    def learns_pairs(self) -> bool:
        """Whether the method learns from preference pairs."""
        return self.method in ("dpo", "orpo")

    @property
    def train_files(self) -> tuple[TrainFile, ...]:
        """The files of training rows, paths as written."""
        return (TrainFile(path=self.train),) if isinstance(self.train, str) else self.train

    @property
    def train_paths(self) -> tuple[Path, ...]:
        """The paths of the files of training rows."""
        return tuple(self.directory / file.path for file in self.train_files)

    @property
    def valid_path(self) -> Path | None:
        """The path of the validation rows, or None when they are held out from the training file."""
        return self.directory / self.valid if self.valid is not None else None

    @property
    def sha256(self) -> str:
        """Identity of the recipe's fields, whatever the spelling of the file or its folder."""
        document = self.model_dump(mode="json", exclude={"sweep"})
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe; raises `RecipeError` with every invalid field."""
    return read_toml(path, Recipe)
