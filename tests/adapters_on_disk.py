"""Real adapters of the base model made without torch in milliseconds, and registered as another gateway would do it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from adapters import BaseModel, Registry, State, Store, Version
from adapters.peft_config import read_peft_config
from gateway.database import open_database


def write_adapter(base: BaseModel, directory: Path, seed: int, *, r: int = 1, strength: float = 0.3) -> Path:
    """A PEFT directory with random weights on all projections; the seed decides every number."""
    random = np.random.default_rng(seed)
    modules = {name: shape for name, shape in base.modules.items() if name.endswith("_proj")}
    tensors = {}
    for name, (out, into) in modules.items():
        a = random.standard_normal((r, into)) / np.sqrt(into)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.astype(np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = (strength * random.standard_normal((out, r))).astype("f4")
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.path),
        "r": r,
        "lora_alpha": 2 * r,
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


class AnotherGateway:
    """Registers and changes adapters in a data directory, as a second gateway on the same database would."""

    def __init__(self, data_dir: Path, base: BaseModel) -> None:
        self.base = base
        self._store = Store(data_dir / "adapters")
        self.registry = Registry(open_database(f"sqlite:///{data_dir / 'turntable.db'}"))

    def publish(self, name: str, directory: Path, seed: int, *, strength: float = 0.3) -> Version:
        """Make, check, store and register an adapter, and make it live, without any engine."""
        source = write_adapter(self.base, directory, seed, strength=strength)
        manifest = self._store.put(source, read_peft_config(source))
        version = self.registry.add(name, manifest, actor="test")
        ready = self.registry.set_state(version, State.READY, "", actor="test")
        self.registry.promote(name, ready.version, actor="test")
        return ready

    def publish_many(self, prefix: str, scratch: Path, count: int) -> Sequence[Version]:
        """Adapters `prefix0`, `prefix1`, … with different weights."""
        return [self.publish(f"{prefix}{n}", scratch / f"{prefix}{n}", 1000 + n) for n in range(count)]
