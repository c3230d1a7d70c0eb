"""The optimisation itself: TRL's SFTTrainer over PEFT's LoRA, given ids and labels that are already final.

TRL is told to prepare nothing: `skip_prepare_dataset` keeps it from tokenising, masking, cutting or packing, and
`max_length=None` from cutting anywhere else. Rows of similar length share a batch, which halves the padding of short
chats. Gradient checkpointing, TRL's default, is off: it pays for memory that small models do not need with time.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.curves import StepMetrics
from trainer.errors import RunError
from trainer.progress import TrainingProgress
from trainer.recipe import Recipe
from trainer.rendering import Rendered, Renderer

if TYPE_CHECKING:
    import torch
    from trl import SFTConfig, SFTTrainer

    from trainer.recorder import Recorder

_LOGGED_STEPS = 200


@dataclass(frozen=True)
class Trained:
    """The outcome of a run: bf16 LoRA tensors under PEFT's names, the modules they adapt, and how it went.

    Losses are means per batch of the mean per learnt token; those of held-out rows are None without such rows.
    """

    tensors: "dict[str, torch.Tensor]"
    target_modules: tuple[str, ...]
    metrics: tuple[StepMetrics, ...]
    steps: int
    input_tokens: int
    steps_s: float
    train_loss: float
    valid_loss_before: float | None
    valid_loss: float | None
    best_epoch: float | None
    trainable_parameters: int
    device: str


def optimise(
    recipe: Recipe,
    base: Path,
    renderer: Renderer,
    train: Sequence[Rendered],
    valid: Sequence[Rendered],
    *,
    scratch: Path,
    progress: TrainingProgress,
) -> Trained:
    """Train a LoRA adapter on rendered rows; `scratch` is a folder TRL may write to. Raises `RunError`."""
    _use_one_gpu()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at import which kernels it does without
    import torch
    from transformers import AutoModelForCausalLM, PrinterCallback
    from transformers.utils.logging import disable_progress_bar
    from trl import SFTTrainer

    from trainer.recorder import Recorder

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, local_files_only=True)
    recorder = Recorder(progress)
    trainer = SFTTrainer(
        model=model,
        args=_arguments(recipe, len(train), bool(valid), scratch),
        train_dataset=_columns(train),
        eval_dataset=_columns(valid) if valid else None,
        processing_class=renderer.tokenizer,
        peft_config=_lora_config(recipe),
        callbacks=[recorder],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        outcome = trainer.train()
    except torch.OutOfMemoryError as error:
        rows = recipe.training.per_device_train_batch_size
        raise RunError(
            f"the GPU ran out of memory with {rows} rows of up to {max(len(row.input_ids) for row in train)} tokens; "
            "halve training.per_device_train_batch_size, double gradient_accumulation_steps, or set "
            "gradient_checkpointing = true."
        ) from error
    recorder.restore_best(trainer.model)
    return _outcome(trainer, recorder, outcome.training_loss)


def _outcome(trainer: "SFTTrainer", recorder: "Recorder", train_loss: float) -> Trained:
    import torch
    from peft import get_peft_model_state_dict

    held_out = [m.eval_loss for m in recorder.metrics if m.eval_loss is not None]
    tensors = get_peft_model_state_dict(trainer.model)
    return Trained(
        tensors={name: t.detach().to("cpu", torch.bfloat16).contiguous() for name, t in sorted(tensors.items())},
        target_modules=tuple(sorted(trainer.model.peft_config["default"].target_modules)),
        metrics=tuple(recorder.metrics),
        steps=trainer.state.global_step,
        input_tokens=recorder.metrics[-1].tokens,
        steps_s=recorder.steps_s,
        train_loss=train_loss,
        valid_loss_before=held_out[0] if held_out else None,
        valid_loss=min(held_out[1:]) if held_out else None,
        best_epoch=recorder.best_epoch,
        trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    )


def _arguments(recipe: Recipe, rows: int, has_valid: bool, scratch: Path) -> "SFTConfig":
    import torch
    from trl import SFTConfig

    training = recipe.training
    steps = -(-rows // training.effective_batch_size) * training.num_train_epochs
    return SFTConfig(
        output_dir=str(scratch),
        seed=recipe.seed,
        data_seed=recipe.seed,
        learning_rate=training.learning_rate,
        num_train_epochs=training.num_train_epochs,
        per_device_train_batch_size=training.per_device_train_batch_size,
        per_device_eval_batch_size=training.per_device_train_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        warmup_steps=0 if training.lr_scheduler_type == "constant" else training.warmup_fraction,
        lr_scheduler_type=training.lr_scheduler_type,
        gradient_checkpointing=training.gradient_checkpointing,
        train_sampling_strategy="group_by_length",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="epoch" if has_valid else "no",
        eval_on_start=has_valid,
        prediction_loss_only=True,
        save_strategy="no",
        logging_steps=max(1, steps // _LOGGED_STEPS),
        report_to="none",
        disable_tqdm=True,
    )


def _lora_config(recipe: Recipe) -> Any:
    from peft import LoraConfig

    lora = recipe.lora
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        use_rslora=lora.use_rslora,
        bias="none",
    )


def _columns(rows: Sequence[Rendered]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [row.labels for row in rows],
            "length": [len(row.input_ids) for row in rows],
        }
    )


def _use_one_gpu() -> None:
    """One process trains on one GPU; TRL refuses to see several without a distributed launcher."""
    if "LOCAL_RANK" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
