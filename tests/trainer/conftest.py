"""Small data files, a small base model, and a gateway whose models say what they always say."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.small_base import small_base_model
from tests.trainer import scripted_gateway

WriteJsonl = Callable[..., Path]


@pytest.fixture(scope="session")
def base_model() -> Path:
    """A base that trains in seconds; the embedded one is proved in tests/e2e."""
    return small_base_model()


@pytest.fixture
def jsonl(tmp_path: Path) -> WriteJsonl:
    """Writes rows (dicts, or strings as they stand) to a JSONL file and returns its path."""

    def write(*rows: object, name: str = "train.jsonl") -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


def chat(asked: str = "Where is my parcel?", answered: str = "On its way.", **more: object) -> dict[str, object]:
    """One good row."""
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}],
        **more,
    }


def pair(asked: str = "Where is my parcel?", **more: object) -> dict[str, object]:
    """One good preference pair."""
    return {
        "input": {"messages": [{"role": "user", "content": asked}]},
        "preferred_output": [{"role": "assistant", "content": "On its way."}],
        "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
        **more,
    }


@pytest.fixture(scope="session")
def gateway_url() -> Iterator[str]:
    """A server whose models say what they always say; see `scripted_gateway`."""
    with scripted_gateway.running() as url:
        yield url
