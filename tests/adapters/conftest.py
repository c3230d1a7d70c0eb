"""A tiny base model and PEFT adapters of it, written with numpy alone, and a small admin API to talk to."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file
from sqlalchemy import Engine

from adapters import BaseModel, Registry

Tensors = dict[str, npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, int]]

R = 8
LAYERS = 2
ATTENTION: Shapes = {"self_attn.q_proj": (16, 16), "self_attn.v_proj": (8, 16), "self_attn.o_proj": (16, 16)}
MLP: Shapes = {"mlp.gate_proj": (32, 16), "mlp.up_proj": (32, 16), "mlp.down_proj": (16, 32)}
ALL_LINEAR: Shapes = {**ATTENTION, **MLP}


def in_layers(shapes: Shapes) -> Shapes:
    """Full module names, as the base model has them, with their (out_features, in_features)."""
    return {f"model.layers.{n}.{name}": shape for n in range(LAYERS) for name, shape in shapes.items()}


def key(module: str, side: str) -> str:
    """What PEFT calls the A or B matrix of a module."""
    return f"base_model.model.{module}.lora_{side}.weight"


Q0 = "model.layers.0.self_attn.q_proj"


def lora(shapes: Shapes, r: int = R, seed: int = 0) -> Tensors:
    """A strong A and B of rank `r` for each module."""
    draw = np.random.default_rng(seed)
    tensors: Tensors = {}
    for module, (out_features, in_features) in shapes.items():
        tensors[key(module, "A")] = draw.normal(size=(r, in_features)).astype(np.float32)
        tensors[key(module, "B")] = draw.normal(size=(out_features, r)).astype(np.float32)
    return tensors


@dataclass
class Adapter:
    """The content of an adapter's directory, good as it stands; tests change it before they write it."""

    config: dict[str, Any] = field(
        default_factory=lambda: {
            "peft_type": "LORA",
            "base_model_name_or_path": "tiny",
            "r": R,
            "lora_alpha": 16,
            "target_modules": sorted({name.rpartition(".")[2] for name in ALL_LINEAR}),
            "bias": "none",
            "init_lora_weights": True,
            "rank_pattern": {},
            "modules_to_save": None,
            "use_dora": False,
        }
    )
    tensors: Tensors = field(default_factory=lambda: lora(in_layers(ALL_LINEAR)))
    training: Any = None

    def write(self, directory: Path) -> Path:
        """Write what PEFT's save_pretrained would, and training.json when there is one; returns the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "adapter_config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, directory / "adapter_model.safetensors")
        if self.training is not None:
            (directory / "training.json").write_text(json.dumps(self.training))
        return directory


def write_base(directory: Path) -> Path:
    """A two-layer Llama-shaped model in two shards, with a tokenizer and a chat template."""
    directory.mkdir()
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 16}))
    weights = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in in_layers(ALL_LINEAR).items()}
    norms = {f"model.layers.{n}.input_layernorm.weight": np.ones(16, np.float32) for n in range(LAYERS)}
    ends = {name: np.zeros((64, 16), np.float32) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    save_file(weights, directory / "model-00001-of-00002.safetensors")
    save_file({**norms, **ends}, directory / "model-00002-of-00002.safetensors")
    return directory


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def base(base_dir: Path) -> BaseModel:
    return BaseModel.read(base_dir)


@pytest.fixture
def adapter_dir(tmp_path: Path) -> Path:
    """A good adapter of the base, trained on all linear layers."""
    return Adapter().write(tmp_path / "adapter")


@pytest.fixture
def registry(database: Engine) -> Registry:
    """An empty registry, on each kind of database."""
    return Registry(database)


@dataclass(frozen=True)
class Request:
    """One request as the admin API received it."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass(frozen=True)
class AdminApi:
    """A listening server that keeps what it was sent."""

    url: str
    received: list[Request]


Serve = Callable[..., AdminApi]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that give each request the next of the answers, a document for JSON or bytes for anything else."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(*answers: Any, status: int = 200) -> AdminApi:
        received: list[Request] = []
        left = iter(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                received.append(Request(self.command, self.path, self.headers, body))
                answer = next(left)
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_DELETE = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return AdminApi(f"http://127.0.0.1:{server.server_port}", received)

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """An empty folder to fetch an adapter into."""
    directory = tmp_path / "into"
    directory.mkdir()
    return directory


def names(directory: Path) -> list[str]:
    """The names in a folder, sorted."""
    return sorted(path.name for path in directory.iterdir())
