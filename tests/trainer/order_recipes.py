"""A recipe of any method over sixteen rows about late orders."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.trainer.conftest import chat
from trainer.training.recipe import Recipe

ROWS = [chat(f"Order {i} is late, where is it?", f'{{"order": {i}, "late": true}}') for i in range(16)]
PAIRS = [
    {
        "input": {"messages": [{"role": "user", "content": f"Order {i} is late, where is it?"}]},
        "preferred_output": [{"role": "assistant", "content": f"Order {i} is late."}],
        "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
    }
    for i in range(16)
]
RATINGS: list[dict[str, Any]] = [
    chat(f"Order {i} is late, where is it?", "No idea." if i % 2 else f"Order {i} is late.", label=i % 2 == 0)
    for i in range(16)
]


def recipe(folder: Path, base_model: Path, method: str, **more: Any) -> Recipe:
    of_method: dict[str, Sequence[Mapping[str, Any]]] = {"dpo": PAIRS, "orpo": PAIRS, "kto": RATINGS}
    rows = of_method.get(method, ROWS)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    training = {"learning_rate": 1e-3, "num_train_epochs": 1, "per_device_train_batch_size": 4}
    lora = {} if method == "full" else {"lora": {"r": 8}}
    document = {"name": "late", "method": method, "base_model": str(base_model), "train": "train.jsonl"}
    return Recipe.model_validate(
        {**document, "valid_fraction": 0.25, "training": training, "directory": folder, **lora, **more}
    )
