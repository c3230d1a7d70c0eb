"""Base model metadata without torch: linear modules with shapes, chat template, digests of weights and tokenizer."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from adapters.errors import AdapterError
from adapters.layout import TEMPLATE_FILE, TOKENIZER_CONFIG, TOKENIZER_FILE
from adapters.manifest import file_sha256
from adapters.store import cached_sha256


@dataclass(frozen=True)
class BaseModel:
    """A base model read from its directory without torch.

    `modules` maps each two-dimensional weight's module name to its shape (out_features, in_features);
    `config_sha256` identifies the architecture and is what a trainer records.
    """

    path: Path
    config_sha256: str
    modules: Mapping[str, tuple[int, int]]

    @classmethod
    def read(cls, path: Path) -> "BaseModel":
        """Read config.json and the safetensors headers; raises `AdapterError` when the directory is not a model."""
        config = path / "config.json"
        if not config.is_file():
            raise AdapterError(f"{path} holds no config.json; give the directory of a Hugging Face model.")
        shards = _shards(path)
        if not shards:
            raise AdapterError(f"{path} holds no *.safetensors weights; save the model with safe serialization.")
        return cls(path, file_sha256(config), {k: v for shard in shards for k, v in _linear_shapes(shard).items()})

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the weights: SHA-256 of the output of `sha256sum *.safetensors`.

        Reading them takes seconds per 10 GB, so hashes are kept beside the model and hold while size and time do.
        """
        hashes = cached_sha256(self.path, _shards(self.path))
        listed = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
        return hashlib.sha256(listed.encode()).hexdigest()

    @cached_property
    def tokenizer_sha256(self) -> str | None:
        """SHA-256 of tokenizer.json; None when the model has none."""
        path = self.path / TOKENIZER_FILE
        return file_sha256(path) if path.is_file() else None

    @cached_property
    def chat_template(self) -> str | None:
        """Chat template that transformers and the engine use; None without one."""
        return read_chat_template(self.path)

    @cached_property
    def chat_template_sha256(self) -> str | None:
        """SHA-256 of the chat template; None when the model has none."""
        template = self.chat_template
        return None if template is None else hashlib.sha256(template.encode()).hexdigest()


def _shards(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


def read_chat_template(path: Path) -> str | None:
    """Read the chat template from a folder of tokenizer files; None without one."""
    if (path / TEMPLATE_FILE).is_file():
        return (path / TEMPLATE_FILE).read_text(encoding="utf-8")
    if not (path / TOKENIZER_CONFIG).is_file():
        return None
    template: Any = json.loads((path / TOKENIZER_CONFIG).read_bytes()).get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _linear_shapes(shard: Path) -> dict[str, tuple[int, int]]:
    try:
        with safe_open(shard, framework="numpy") as tensors:
            shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise AdapterError(f"{shard} is not a readable safetensors file ({error}); download it again.") from error
    return {
        key.removesuffix(".weight"): (shape[0], shape[1])
        for key, shape in shapes.items()
        if key.endswith(".weight") and len(shape) == 2
    }
