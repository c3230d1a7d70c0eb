"""The model card of a run: README.md beside the weights, generated from the facts in training.json."""

from collections.abc import Mapping
from typing import Any

_CARD = """---
base_model: {base_model}
library_name: peft
tags: [lora, turntable]
---

# {name}

A LoRA adapter for `{base_model}`, trained {finished_at}.

| | |
|---|---|
| training rows | {train_rows} ({train_sha}), {train_dropped} left out as too long |
| held-out rows | {valid_rows} |
| learnt tokens | {trained_tokens:,} ({trained_tokens_per_epoch:,} per epoch) |
| steps, epoch kept | {steps}, {best_epoch} |
| training loss, mean of the run | {train_loss:.4f} |
| held-out loss, before and after | {valid_loss_before}, {valid_loss} |
| r, lora_alpha, lora_dropout | {r}, {lora_alpha}, {lora_dropout} |
| target modules | {target_modules} |
| learning rate, seed | {learning_rate}, {seed} |
| trainable parameters | {trainable_parameters:,} |
| time | {wall_s:.0f} s on {device} |

The loss was taken over assistant messages and their stop tokens only, rendered with the base model's own chat template
(`{template}`). The recipe has the hash `{recipe}`, the base model's config `{base}`; training.json holds the record.
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """The card's text; every figure in it is a fact of the run."""
    recipe, data = facts["recipe"], facts["data"]
    return _CARD.format(
        **{key: facts[key] for key in _PLAIN},
        **{key: recipe["lora"][key] for key in ("r", "lora_alpha", "lora_dropout")},
        **{key: _loss(facts[key]) for key in ("valid_loss_before", "valid_loss")},
        best_epoch="the last" if facts["best_epoch"] is None else f"{facts['best_epoch']:g}",
        train_rows=data["train"]["rows"],
        train_sha=f"sha256 {data['train']['sha256'][:12]}",
        train_dropped=len(data["train"]["dropped_lines"]),
        valid_rows=data["valid"]["rows"],
        target_modules=", ".join(facts["target_modules"]),
        learning_rate=recipe["training"]["learning_rate"],
        template=facts["chat_template_sha256"][:12],
        recipe=facts["recipe_sha256"][:12],
        base=facts["base_config_sha256"][:12],
    )


_PLAIN = (
    "name",
    "base_model",
    "finished_at",
    "trained_tokens",
    "trained_tokens_per_epoch",
    "steps",
    "train_loss",
    "seed",
    "trainable_parameters",
    "wall_s",
    "device",
)


def _loss(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
