"""Training and serving agree on the real engine, in tokens and in log-probabilities, or it is said where they part."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from tests.conftest import Served
from tests.trainer.order_recipes import recipe
from trainer.training.run import train

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> dict[str, Path]:
    """A finished run of each method whose adapter the engine serves, and one on a base with other weights."""
    other = shutil.copytree(base_model, tmp_path_factory.mktemp("other") / "base")
    weights = load_file(other / "model.safetensors")
    louder = {name: 1.5 * tensor if "down_proj" in name else tensor for name, tensor in weights.items()}
    save_file(louder, other / "model.safetensors", metadata={"format": "pt"})
    made = {}
    for name, base, method in (("lora", base_model, "lora"), ("qlora", base_model, "qlora"), ("other", other, "lora")):
        folder = tmp_path_factory.mktemp(name)
        run = train(recipe(folder, base, method), folder / "var", Console(quiet=True))
        assert run is not None
        made[name] = run.directory
    (made["other"] / "training.json").unlink()  # by which preflight would know
    return made


def published(served: Served, name: str, adapter: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Publish as an operator does; the exit code, the version, and what parity found."""
    added = served.turntable("adapters", "add", name, adapter, "--json")
    (version,) = served.http.get(f"/admin/v1/adapters/{name}").json()["versions"]
    found = next(found["document"] for found in version["evidence"] if found["kind"] == "parity")
    return added.returncode, version, found


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_trained_adapter_is_served_as_it_was_trained(served: Served, runs: dict[str, Path], method: str) -> None:
    code, version, found = published(served, f"parity-{method}", runs[method])
    assert (code, version["state"], found["verdict"]) == (0, "ready", "pass"), found
    assert found["adapter_difference_mean"] < 0.05 < found["effect_in_engine"]
    assert found["ratio"] == pytest.approx(1, abs=0.1)
    shown = served.turntable("adapters", "show", f"parity-{method}").stdout
    assert "parity" in shown
    assert served.turntable("adapters", "verify", f"parity-{method}", "v1").returncode == 0


def nothing(_folder: Path) -> None:
    """The adapter as it is."""


def doubled(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_bytes())
    (folder / CONFIG).write_text(json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))


def scaled(folder: Path) -> None:
    change(folder, lambda name, tensor: 0.4 * tensor if ".lora_B." in name else tensor)


def next_to_zero(folder: Path) -> None:
    change(folder, lambda name, tensor: 3e-3 * tensor if ".lora_B." in name else tensor)


def shuffled(folder: Path) -> None:
    change(folder, lambda name, tensor: tensor.flip(0) if ".lora_B." in name else tensor)


def change(folder: Path, how: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    tensors = {name: how(name, tensor).contiguous() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("run", "tamper", "verdict", "said"),
    [
        ("lora", doubled, "drift", "lora_alpha"),
        ("lora", scaled, "drift", "times as strongly"),
        (
            "lora",
            shuffled,
            "drift or no_effect",
            "not those that were trained",
        ),
        ("lora", next_to_zero, "no_effect", "answers as the base"),
        ("other", nothing, "drift", "base itself differs"),
    ],
)
def test_an_adapter_that_was_tampered_with_is_quarantined_with_the_likely_cause(
    served: Served,
    runs: dict[str, Path],
    tmp_path: Path,
    run: str,
    tamper: Callable[[Path], None],
    verdict: str,
    said: str,
) -> None:
    adapter = shutil.copytree(runs[run], tmp_path / "tampered")
    tamper(adapter)
    name = f"parity-{run}-{tamper.__name__.replace('_', '-')}"
    code, version, found = published(served, name, adapter)
    assert (code, version["state"]) == (2, "quarantined"), found
    assert found["verdict"] in verdict.split(" or "), found
    assert said in version["reason"] == found["sentence"]
    refused = served.http.post(f"/admin/v1/adapters/{name}/promote", json={"version": "v1"})
    assert refused.status_code == 409


def conversation(dice: random.Random) -> dict[str, Any]:
    """A random row: with or without system message, one turn or several, in several scripts.

    Without tools, which the base's template does not write: tests/trainer/chat compares them with vLLM's own renderer.
    """
    words = ["parcel", "Größe", "注文", "\n\n", "  two", "🙂", '{"a": 1}', "it's", "\t", "e\u0301"]

    def text() -> str:
        return " ".join(dice.choices(words, k=dice.randint(1, 8))).strip() or "x"

    messages: list[dict[str, Any]] = [{"role": "system", "content": text()}] if dice.random() < 0.5 else []
    for _ in range(dice.randint(1, 3)):
        messages.append({"role": "user", "content": text()})
        messages.append({"role": "assistant", "content": text()})
    return {"messages": messages}


def test_conversations_have_the_tokens_that_the_gateway_gives_them(
    served: Served, base_model: Path, tmp_path: Path
) -> None:
    dice = random.Random(6)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(conversation(dice)) + "\n" for _ in range(40)), encoding="utf-8")
    preview = ("data", "preview", rows, "--rows", "40", "--json", "--against-gateway", served.url, "--base-model")
    same = served.turntable(*preview, base_model)
    assert (same.returncode, same.stderr) == (0, ""), same.stderr
    assert len(json.loads(same.stdout)) == 40
    other = shutil.copytree(base_model, tmp_path / "other")
    template = other / "chat_template.jinja"
    kind = "<|im_start|>system\nBe kind.<|im_end|>\n"
    template.write_text(kind + template.read_text(encoding="utf-8"), encoding="utf-8")
    parted = served.turntable(*preview, other)
    assert parted.returncode == 1
    assert "rows.jsonl:1: is tokenized differently by the gateway from token" in parted.stderr
    recipe_file = tmp_path / "recipe.toml"
    recipe_file.write_text('name = "parted"\nbase_model = "other"\ntrain = "rows.jsonl"\n', encoding="utf-8")
    refused = served.turntable("train", recipe_file, "--publish")
    assert refused.returncode == 2
    assert "is tokenized differently by the gateway" in refused.stderr
    assert not list((served.data_dir / "runs").glob("parted*"))
    recipe_file.write_text(recipe_file.read_text(encoding="utf-8") + "[lora]\nr = 512\n", encoding="utf-8")
    too_high = served.turntable("train", recipe_file, "--publish")
    (engine,) = served.http.get("/admin/v1/engines").json()["data"]
    assert too_high.returncode == 2
    assert f"lora.r is 512, over the engine's {engine['max_lora_rank']}; lower it" in too_high.stderr
