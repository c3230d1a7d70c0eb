"""One run of one system in this process: trains on the rows given and prints what it took as JSON.

All systems get the same rows, labels, adapter shape, learning rate and rows per step. Their adapters are measured by
the same code on the same held-out rows, in bf16 as they would be served.
"""

import json
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from trainer.training.base import prepare_libraries
from trainer.training.recipe import Recipe

Measured = dict[str, float]


@dataclass
class Clock:
    """What its block took: time on the wall, and of all cores."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __enter__(self) -> Self:
        self.wall_s, self.cpu_s = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s += time.perf_counter()
        self.cpu_s += time.process_time()


def main(system: str, workload: Path) -> Measured:
    """Run one system on a pickled workload: base directory, recipe, training rows, held-out rows."""
    prepare_libraries()
    base, recipe, train, valid = pickle.loads(workload.read_bytes())  # noqa: S301 - written by the parent process
    tensors, clock = SYSTEMS[system](base, recipe, train)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokens = sum(row.tokens for row in train) * recipe.training.num_train_epochs
    return {
        "tokens_per_s": tokens / clock.wall_s,
        "train_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "peak_mib": peak_mib,
        "eval_loss": _eval_loss(base, recipe, tensors, valid),
    }


def _ours(base: Path, recipe: Recipe, rows: Sequence[Any]) -> tuple[dict[str, Any], Clock]:
    from peft import get_peft_model_state_dict

    from trainer.training.loop import TrainingLoop
    from trainer.training.loss import SupervisedLoss
    from trainer.training.metrics_log import NoMetrics
    from trainer.training.model import load_base, local_device, make_trainable

    device = local_device(0)
    model = make_trainable(load_base(base, device), recipe, device)
    loop = TrainingLoop(recipe, model, SupervisedLoss(model, rows), None, NoMetrics())
    with Clock() as clock:
        loop.run()
    return get_peft_model_state_dict(model.module), clock


def _trl(options: Mapping[str, Any], model_options: Mapping[str, Any]) -> Callable[..., tuple[dict[str, Any], Clock]]:
    def run(base: Path, recipe: Recipe, rows: Sequence[Any]) -> tuple[dict[str, Any], Clock]:
        import torch
        from datasets import Dataset
        from peft import LoraConfig, get_peft_model_state_dict
        from trl import SFTConfig, SFTTrainer

        columns = {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
        lora, training = recipe.lora, recipe.training
        with tempfile.TemporaryDirectory() as scratch:
            trainer = SFTTrainer(
                model=str(base),
                args=SFTConfig(
                    output_dir=scratch,
                    learning_rate=training.learning_rate,
                    num_train_epochs=training.num_train_epochs,
                    per_device_train_batch_size=training.per_device_train_batch_size,
                    warmup_steps=training.warmup_fraction,
                    seed=recipe.seed,
                    use_cpu=not torch.cuda.is_available(),
                    dataloader_pin_memory=torch.cuda.is_available(),
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    model_init_kwargs=dict(model_options) or None,
                    **options,
                ),
                train_dataset=Dataset.from_dict(columns),
                peft_config=LoraConfig(
                    r=lora.r,
                    lora_alpha=lora.lora_alpha,
                    lora_dropout=lora.lora_dropout,
                    target_modules="all-linear",
                    task_type="CAUSAL_LM",
                ),
            )
            with Clock() as clock:
                trainer.train()
        return get_peft_model_state_dict(trainer.model), clock

    return run


def _eval_loss(base: Path, recipe: Recipe, tensors: dict[str, Any], rows: Sequence[Any]) -> float:
    import torch
    from peft import set_peft_model_state_dict

    from trainer.training.loss import SupervisedLoss, evaluate_loss
    from trainer.training.model import add_adapter, load_base

    device = torch.device("cpu")
    model = add_adapter(load_base(base, device), recipe.lora, device, seed=0)
    set_peft_model_state_dict(model.module, {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()})
    return evaluate_loss(model, SupervisedLoss(model, rows), max_tokens=8192)


SYSTEMS: Mapping[str, Callable[..., tuple[dict[str, Any], Clock]]] = MappingProxyType(
    {
        "turntable": _ours,
        "trl": _trl({}, {}),
        "trl-tuned": _trl(
            {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}, {"dtype": "bfloat16"}
        ),
    }
)


if __name__ == "__main__":
    # The libraries print to standard output; the last line is ours.
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))  # noqa: T201
