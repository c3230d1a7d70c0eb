"""Builds the gate of a gateway from its settings."""

from pathlib import Path

from adapters import BaseModel
from gateway.gates.gate import Gate
from gateway.gates.served_base import ServedBase
from gateway.settings import Settings


def build_gate(settings: Settings, base_dir: Path | None) -> Gate:
    """The gate before promotions, over the base whose files are in `base_dir` when they are at hand."""
    base = BaseModel.read(base_dir) if base_dir else None
    return Gate(ServedBase(settings.served_model_name, base), settings.require_verdict, settings.require_approval)
