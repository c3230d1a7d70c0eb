"""Manifest of a stored version, written last: its presence means that the version is complete."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel as Schema
from pydantic import ConfigDict

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TRAINING_FILE = "training.json"
CARD_FILE = "README.md"
PARITY_FILE = "parity.json"
MANIFEST_FILE = "manifest.json"
_WRITTEN_FROM_SETS = ("target_modules", "exclude_modules")


class Conversion(Schema):
    """Conversion to PEFT's layout: the steps as sentences, and the SHA-256 of every original file.

    `original_digest` is the SHA-256 of what `sha256sum` prints of those files in the order of their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[str, ...]
    original_digest: str
    original_files: Mapping[str, str]


class Manifest(Schema):
    """Manifest of one immutable version.

    `digest` is the SHA-256 over the canonical adapter_config.json and the weights, in hex; `files` maps each file
    name to its own SHA-256; `training` is what the trainer recorded, empty for adapters trained elsewhere; `converted`
    says what it was made of when another tool had saved it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    digest: str
    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    weights_bytes: int
    files: Mapping[str, str]
    training: Mapping[str, Any]
    created_at: datetime
    converted: Conversion | None = None

    @property
    def digest12(self) -> str:
        """Short digest for refs and engine names."""
        return self.digest[:12]


def content_digest(config: Mapping[str, Any], weights_sha256: str) -> str:
    """Return the content digest of a version; independent of JSON formatting.

    PEFT writes some sets as lists whose order changes from save to save; it is not content.
    """
    ordered = {key: sorted(config[key], key=str) for key in _WRITTEN_FROM_SETS if isinstance(config.get(key), list)}
    canonical = json.dumps({**config, **ordered}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{canonical}\n{weights_sha256}".encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
