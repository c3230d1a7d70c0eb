"""What an adapter was trained on, as its training.json records it, against what is served."""

from pathlib import Path

from adapters.base_model import BaseModel
from adapters.errors import PreflightError
from adapters.manifest import TRAINING_FILE
from adapters.peft_config import read_object

# Each field of training.json, and what the served base calls the same; the weights come last, as their hash takes long.
_RECORDED = {
    "base_config_sha256": "config_sha256",
    "tokenizer_sha256": "tokenizer_sha256",
    "chat_template_sha256": "chat_template_sha256",
    "base_weights_sha256": "weights_sha256",
}
_FIX = {
    "tokenizer_sha256": "its tokens would mean other words; serve the tokenizer it was trained with, or train again",
    "chat_template_sha256": "its prompts would look other than in training; serve that template, or train again",
}


def check_lineage(directory: Path, base: BaseModel | None) -> None:
    """Raise `PreflightError` when training.json names another base, tokenizer or chat template than is served.

    Adapters trained elsewhere come without the file and are bound by their tensors alone. What the file does not
    record, or the base does not have, is not compared.
    """
    path = directory / TRAINING_FILE
    if not path.is_file():
        return
    recorded = read_object(path)
    for field, attribute in _RECORDED.items():
        trained_on = recorded.get(field)
        if base is None or trained_on is None:
            continue
        served = getattr(base, attribute)
        if served is not None and trained_on != served:
            fix = _FIX.get(field, "train on the base that is served")
            raise PreflightError(f"{TRAINING_FILE}: {field}", f"is {trained_on!s:.12}, served is {served:.12}; {fix}.")
