"""Versions for tests of the registry, made of nothing but a number that stands for their content."""

from datetime import UTC, datetime

from adapters import Manifest, Registry, State, Version

NAME = "support-triage"


def manifest(content: int) -> Manifest:
    return Manifest(
        digest=f"{content:064x}"[::-1],
        r=8,
        lora_alpha=16.0,
        target_modules=("q_proj", "v_proj"),
        weights_bytes=1_000,
        files={"adapter_model.safetensors": "0" * 64},
        training={"recipe": {"epochs": 3}, "loss": [1.5, 0.25]},
        created_at=datetime.now(UTC),
    )


def add_ready(registry: Registry, content: int, name: str = NAME) -> Version:
    return registry.set_state(registry.add(name, manifest(content), actor="ops"), State.READY, "", actor="ops")
