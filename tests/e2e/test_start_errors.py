"""`turntable serve` says in one sentence what keeps it from starting, with the fix, and exits with 2."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.auth import ApiKeyService
from gateway.database import open_database
from tests.conftest import TURNTABLE
from tests.gateway.auth.conftest import DRAFT


def serve(*options: object) -> "subprocess.CompletedProcess[str]":
    command = [TURNTABLE, "serve", "--engine-port", "0", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def one_sentence(result: "subprocess.CompletedProcess[str]") -> str:
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2, result.stderr
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return errors[0]


def test_a_taken_port_is_named_with_the_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = one_sentence(serve("--port", port, "--data-dir", tmp_path))
    assert str(port) in sentence
    assert "--port" in sentence


def test_a_taken_engine_port_is_named_with_its_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = one_sentence(serve("--port", 0, "--engine-port", port, "--data-dir", tmp_path))
    assert "--engine-port" in sentence


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    sentence = one_sentence(serve("--port", 0, "--data-dir", tmp_path / "file" / "var"))
    assert str(tmp_path / "file" / "var") in sentence
    assert "--data-dir" in sentence


def test_a_model_that_does_not_exist_is_named(tmp_path: Path) -> None:
    sentence = one_sentence(serve("--port", 0, "--data-dir", tmp_path, "--model", "./no-such-model"))
    assert "no-such-model" in sentence


def test_a_broken_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "turntable.db").write_text("this is no database, whatever its name says, and never was one" * 20)
    sentence = one_sentence(serve("--port", 0, "--data-dir", tmp_path, "--engine-url", "http://127.0.0.1:9"))
    assert "turntable.db" in sentence


@pytest.mark.parametrize("name", ["TURNTABLE_PORT", "TURNTABLE_MAX_LORAS"])
def test_a_setting_that_is_no_number_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "many")
    assert name.removeprefix("TURNTABLE_").lower() in one_sentence(serve("--data-dir", tmp_path))


def test_a_model_that_the_engine_cannot_load_ends_with_the_engines_reason(
    tmp_path: Path, make_adapter: Callable[[int], Path]
) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text('{"architectures": ["NoSuchForCausalLM"], "model_type": "no-such"}')
    (broken / "model.safetensors").write_bytes((make_adapter(9) / "adapter_model.safetensors").read_bytes())
    result = serve("--port", 0, "--data-dir", tmp_path / "var", "--model", broken)
    sentence = one_sentence(result)
    assert "engine.log" in sentence
    assert "give a model that vLLM takes with --model" in sentence
    assert "no tool calls: the chat template takes no tools" in result.stderr


def test_a_pepper_that_the_keys_were_not_made_with_is_named_with_the_fix(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'turntable.db'}")
    ApiKeyService(database, "tt-admin", "p" * 64).create(DRAFT, actor="admin")
    database.dispose()
    sentence = one_sentence(serve("--port", 0, "--data-dir", tmp_path, "--engine-url", "http://127.0.0.1:9"))
    assert "made with another pepper" in sentence
    assert "key_pepper" in sentence
