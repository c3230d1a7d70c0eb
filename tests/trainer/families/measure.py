"""Measure a family: our loss and gradients against plain PEFT's, row by row, in fp32, on its two-layer model."""

import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.trainer.families.configs import VOCABULARY, build
from trainer.training import model as model_module
from trainer.training.batching import pack
from trainer.training.loss import summed_cross_entropy
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample
from trainer.training.model import TrainableModel, add_adapter, load_base, unfreeze
from trainer.training.recipe import Lora
from trainer.training.self_check import SelfCheck, checked

CPU = torch.device("cpu")
ROW_TOKENS = (9, 30, 17, 41)


@dataclass(frozen=True)
class Measured:
    """How a family is trained, and its largest relative difference to plain PEFT: of a row's loss, of all gradients."""

    check: SelfCheck
    target_modules: tuple[str, ...]
    loss: float
    gradients: float


def rows() -> list[RenderedExample]:
    """Return rows of arbitrary tokens, the first few of each not in the loss."""
    numbers = torch.Generator().manual_seed(1)
    made = []
    for line, tokens in enumerate(ROW_TOKENS, 1):
        ids = torch.randint(8, VOCABULARY, (tokens,), generator=numbers).tolist()
        made.append(RenderedExample(line, f"row-{line}", "", ids, [IGNORE_INDEX] * 4 + ids[4:], ()))
    return made


def saved(name: str, folder: Path) -> Path:
    """Save a family's model as a checkpoint."""
    build(name).save_pretrained(folder)
    return folder


def measure(name: str, method: str, folder: Path) -> Measured:
    """Train one step's gradients both ways; raises `RunError` where the trainer refuses the family."""
    directory = saved(name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "PRECISION", torch.float32)
        base = load_base(directory, CPU, nf4=method == "qlora")
        model = unfreeze(base, CPU) if method == "full" else add_adapter(base, Lora(r=8, lora_dropout=0.0), CPU, seed=0)
    with torch.no_grad():
        for key, parameter in model.trainable_parameters.items():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.05)
    model, check = checked(model, longest=max(ROW_TOKENS))
    losses, gradients = ours(model)
    plain_losses, plain_gradients = plain(model)
    loss = max(abs(a - b) / abs(b) for a, b in zip(losses, plain_losses, strict=True))
    difference = float((gradients - plain_gradients).norm() / plain_gradients.norm())
    return Measured(check, model.target_modules, loss, difference)


def ours(model: TrainableModel) -> tuple[list[float], torch.Tensor]:
    """Return each row's loss, and the gradients of all rows in one batch."""
    examples = rows()
    with torch.no_grad():
        packed = pack(examples, CPU)
        states = torch.split(model.hidden(packed), list(packed.loss_tokens_per_row))
        targets = torch.split(packed.targets, list(packed.loss_tokens_per_row))
        losses = [float(summed_cross_entropy(a, model.head, b)) for a, b in zip(states, targets, strict=True)]
    summed_cross_entropy(model.hidden(packed), model.head, packed.targets).backward()  # type: ignore[no-untyped-call]
    return losses, taken(model)


def plain(model: TrainableModel) -> tuple[list[float], torch.Tensor]:
    """Return the same by the library's own forward pass with its own attention, a row at a time."""
    model.base.set_attn_implementation("eager")
    losses = []
    for row in rows():
        ids = torch.tensor([row.input_ids])
        # Models with images want to know in training that no token stands for one.
        asked = inspect.signature(model.base.forward).parameters if hasattr(model.base.config, "text_config") else ()
        kinds = {name: torch.zeros_like(ids) for name in ("token_type_ids", "mm_token_type_ids") if name in asked}
        logits = model.base(input_ids=ids, use_cache=False, **kinds).logits[0, :-1].float()
        loss = functional.cross_entropy(
            logits, torch.tensor(row.labels[1:]), ignore_index=IGNORE_INDEX, reduction="sum"
        )
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
    return losses, taken(model)


def taken(model: TrainableModel) -> torch.Tensor:
    """Return the gradients as one vector, and clear them."""
    parts = []
    for parameter in model.trainable_parameters.values():
        parts.append(torch.zeros(parameter.numel()) if parameter.grad is None else parameter.grad.flatten().float())
        parameter.grad = None
    return torch.cat(parts)
