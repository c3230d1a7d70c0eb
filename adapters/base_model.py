"""The base model as an adapter sees it: which linear modules it has, of which shapes, and its identity."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from adapters.errors import AdapterError
from adapters.manifest import file_sha256


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
        shards = sorted(path.glob("*.safetensors"))
        if not shards:
            raise AdapterError(f"{path} holds no *.safetensors weights; save the model with safe serialization.")
        return cls(path, file_sha256(config), {k: v for shard in shards for k, v in _linear_shapes(shard).items()})


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
