"""The model card of a run: README.md beside the weights, generated from the facts in training.json."""

from collections.abc import Mapping
from typing import Any

_CARD = """---
base_model: {base_model}
library_name: {library}
tags: [{tags}]
---

# {name}

{what} `{base_model}` with the method {method}, trained {finished_at}.

| | |
|---|---|
| training rows | {train_rows} ({train_sha}), {train_dropped} left out as too long |
| held-out rows | {valid_rows} |
| learnt tokens | {trained_tokens:,} ({trained_tokens_per_epoch:,} per epoch) |
| steps, epoch kept | {steps}, {best_epoch} |
| training loss, mean of the run | {train_loss:.4f} |
| held-out loss, before and after | {valid_loss_before}, {valid_loss} |
{method_rows}| learning rate, seed | {learning_rate}, {seed} |
| trainable parameters | {trainable_parameters:,} |
| time | {wall_s:.0f} s on {device} |

![training loss and eval loss over the steps](loss.svg)

The loss was taken over assistant messages and their stop tokens only, rendered with the base model's own chat template
(`{template}`). The recipe has the hash `{recipe}`, the base model's config `{base}` and its weights `{weights}`;
training.json holds the record.
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """The card's text; every figure in it is a fact of the run."""
    recipe, data = facts["recipe"], facts["data"]
    is_model = facts["method"] == "full"
    return _CARD.format(
        **{key: facts[key] for key in _PLAIN},
        **{key: _loss(facts[key]) for key in ("valid_loss_before", "valid_loss")},
        what="A model made from" if is_model else "A LoRA adapter for",
        library="transformers" if is_model else "peft",
        tags="turntable" if is_model else "lora, turntable",
        method_rows="" if is_model else _adapter_rows(facts),
        best_epoch="the last" if facts["best_epoch"] is None else facts["best_epoch"],
        train_rows=data["train"]["rows"],
        train_sha=f"sha256 {data['train']['sha256'][:12]}",
        train_dropped=len(data["train"]["dropped_lines"]),
        valid_rows=data["valid"]["rows"],
        learning_rate=recipe["training"]["learning_rate"],
        template=facts["chat_template_sha256"][:12],
        recipe=facts["recipe_sha256"][:12],
        base=facts["base_config_sha256"][:12],
        weights=facts["base_weights_sha256"][:12],
    )


def _adapter_rows(facts: Mapping[str, Any]) -> str:
    lora, served = facts["recipe"]["lora"], facts["on_served_base"]
    rows = [
        ("r, lora_alpha, lora_dropout", f"{lora['r']}, {lora['lora_alpha']}, {lora['lora_dropout']}"),
        ("target modules", ", ".join(facts["target_modules"])),
    ]
    if served["effect"] is not None:
        rows.append(("mean change of a log-probability", f"{served['effect']:.4f}"))
    if served["nf4_drift"] is not None:
        before, after = _loss(served["valid_loss_before"]), _loss(served["valid_loss"])
        rows.append(("held-out loss on the served bf16 base", f"{before}, {after}"))
        rows.append(("mean difference of the NF4 base to it", f"{served['nf4_drift']:.4f}"))
    return "".join(f"| {name} | {value} |\n" for name, value in rows)


_PLAIN = (
    "name",
    "method",
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
