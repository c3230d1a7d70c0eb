"""Adapters as other tools save them: each is served as it is, converted on request, or refused by the tool's name."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapters import BaseModel, PreflightError, preflight
from adapters.archive import pack, unpack
from adapters.conversion import convert
from tests.adapters.conftest import ALL_LINEAR, Q0, Adapter, Tensors, in_layers, key, lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Write = Callable[[Path], object]


def renamed(change: Callable[[str], str], **config: Any) -> Write:
    """A good adapter whose tensors have other names."""

    def write(directory: Path) -> None:
        adapter = Adapter()
        adapter.config.update(config)
        adapter.tensors = {change(name): tensor for name, tensor in adapter.tensors.items()}
        adapter.write(directory)

    return write


def weights_at(*names: str) -> Write:
    """A good adapter whose weights lie in other files."""

    def write(directory: Path) -> None:
        tensors = sorted(Adapter().tensors.items())
        (Adapter().write(directory) / WEIGHTS).unlink()
        for number, name in enumerate(names):
            save_file(dict(tensors[number :: len(names)]), directory / name)

    return write


def mlx(parameters: dict[str, Any] | None = None, **fields: Any) -> Write:
    """What `mlx_lm.lora` saves: matrices the other way round, a scale, and a configuration of its own."""

    def write(directory: Path) -> None:
        directory.mkdir(parents=True)
        stated = {"rank": 8, "dropout": 0.0, "scale": 2.0, "keys": ["self_attn.q_proj"]} | (parameters or {})
        stated = {name: value for name, value in stated.items() if value is not None}
        document = {"fine_tune_type": "lora", "num_layers": 2, "model": "mlx-community/tiny-4bit", "iters": 100}
        document |= {"lora_parameters": stated} | fields
        (directory / CONFIG).write_text(json.dumps(document))
        save_file(as_mlx(Adapter().tensors), directory / "adapters.safetensors")
        save_file(as_mlx(Adapter().tensors), directory / "0000100_adapters.safetensors")

    return write


def as_mlx(tensors: Tensors) -> Tensors:
    names = {name: name.removeprefix("base_model.model.").removesuffix(".weight") for name in tensors}
    sides = {"lora_A": "lora_a", "lora_B": "lora_b"}
    return {
        f"{name.rpartition('.')[0]}.{sides[name.rpartition('.')[2]]}": np.ascontiguousarray(tensors[full].T)
        for full, name in names.items()
    }


def files(**contents: Any) -> Write:
    """A folder of these files."""

    def write(directory: Path) -> None:
        directory.mkdir(parents=True)
        for name, content in contents.items():
            if isinstance(content, bytes):
                (directory / name).write_bytes(content)
            else:
                (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))

    return write


def also(**contents: Any) -> Write:
    """A good adapter with these files in it, over its own."""

    def write(directory: Path) -> None:
        Adapter().write(directory)
        for name, content in contents.items():
            (directory / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    return write


def with_tensors(**config: Any) -> Callable[..., Write]:
    def adding(tensors: dict[str, tuple[int, ...]], *, alone: bool = False) -> Write:
        def write(directory: Path) -> None:
            adapter = Adapter()
            adapter.config.update(config)
            added = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
            adapter.tensors = added if alone else adapter.tensors | added
            adapter.write(directory)

        return write

    return adding


tensors = with_tensors()


def whole_model(directory: Path) -> None:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    save_file({"model.embed_tokens.weight": np.zeros((64, 16), np.float32)}, directory / "model.safetensors")


HTML = b"<!DOCTYPE html>\n<html><head><title>Access to model is restricted</title></head></html>"
GGUF = b"GGUF" + struct.pack("<IQQ", 3, 84, 12) + bytes(64)
PICKLE = b"\x80\x02}q\x00(X\x04\x00\x00\x00baseq\x01K\x01u."
TORCH_ZIP = b"PK\x03\x04\x00\x00\x08\x08\x00\x00" + bytes(64) + b"archive/data.pkl"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
DORA, EMPTY = (
    f"base_model.model.{Q0}.lora_magnitude_vector",
    "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight",
)
SHARDS = ("adapter_model-00001-of-00002.safetensors", "adapter_model-00002-of-00002.safetensors")

AS_THEY_ARE: dict[str, Write] = {
    "PEFT": renamed(str),
    "unsloth": renamed(
        str,
        base_model_name_or_path="unsloth/tiny-bnb-4bit",
        auto_mapping={"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama"},
        target_modules=r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)",
        task_type="CAUSAL_LM",
    ),
    "no task type": renamed(str, task_type=None),
}

CONVERTED: dict[str, Write] = {
    "torch.compile": renamed(lambda name: f"_orig_mod.{name}"),
    "torch.compile below PEFT": renamed(lambda name: name.replace("base_model.model.", "base_model.model._orig_mod.")),
    "DDP, DeepSpeed": renamed(lambda name: f"module.{name}"),
    "DDP over torch.compile": renamed(lambda name: f"module._orig_mod.{name}"),
    "FSDP": renamed(
        lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module.").replace(
            "self_attn.", "self_attn._fsdp_wrapped_module."
        )
    ),
    "activation checkpointing": renamed(lambda name: name.replace(".mlp.", "._checkpoint_wrapped_module.mlp.")),
    "a state_dict with PEFT's adapter name": renamed(lambda name: name.replace(".weight", ".default.weight")),
    "a state_dict with an own adapter name": renamed(lambda name: name.replace(".weight", ".tone.weight")),
    "no PEFT prefix": renamed(lambda name: name.removeprefix("base_model.model.")),
    "all of it at once": renamed(
        lambda name: "module._orig_mod." + name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
    ),
    "model.safetensors": weights_at("model.safetensors"),
    "adapters.safetensors": weights_at("adapters.safetensors"),
    "sharded": weights_at(*SHARDS),
    "MLX": mlx(),
    "MLX without a rank": mlx({"rank": None}),
}

REFUSED: dict[str, tuple[Write, str, str]] = {
    "an error page as weights": (also(**{WEIGHTS: HTML}), WEIGHTS, r"is a web page: .*; log in and download it again"),
    "an error page as config": (also(**{CONFIG: HTML}), CONFIG, r"is a web page: .*; log in and download it again"),
    "an error as weights": (
        also(**{WEIGHTS: b'{"error":"Repository not found"}'}),
        WEIGHTS,
        r"is a message, no weights: .*; log in and download it again",
    ),
    "a short error as weights": (also(**{WEIGHTS: b"Entry not found"}), WEIGHTS, "is a message, no weights"),
    "mock bytes": (also(**{WEIGHTS: b"MOCK" + bytes(20)}), WEIGHTS, "is no safetensors file .*; save the adapter with"),
    "Git LFS": (also(**{WEIGHTS: LFS}), WEIGHTS, "is a Git LFS pointer.*; run git lfs pull first"),
    "Git LFS config": (also(**{CONFIG: LFS}), CONFIG, "is a Git LFS pointer.*; run git lfs pull first"),
    "llama.cpp": (files(**{"adapter.gguf": GGUF}), "adapter.gguf", "is llama.cpp's GGUF; publish the PEFT folder"),
    "llama.cpp with a config": (
        files(**{"adapter.gguf": GGUF, CONFIG: Adapter().config}),
        "adapter.gguf",
        "is llama.cpp's GGUF; publish the PEFT folder",
    ),
    "llama.cpp as weights": (also(**{WEIGHTS: GGUF}), WEIGHTS, "is llama.cpp's GGUF; publish the PEFT folder"),
    "a pickle": (
        files(**{"adapter_model.bin": PICKLE, CONFIG: Adapter().config}),
        "adapter_model.bin",
        r"is a pickle, which could run code and is never read; .*save_pretrained\(safe_serialization=True\)",
    ),
    "a pickle as weights": (also(**{WEIGHTS: PICKLE}), WEIGHTS, "is a pickle under another name"),
    "torch.save as weights": (also(**{WEIGHTS: TORCH_ZIP}), WEIGHTS, "is a pickle of torch.save"),
    "torchtune": (
        files(**{"adapter_0.pt": PICKLE, CONFIG: Adapter().config}),
        "adapter_0.pt",
        "is torchtune's; save with its FullModelHFCheckpointer",
    ),
    "torchtune's names": (
        tensors({"layers.0.attn.q_proj.lora_a.weight": (8, 16)}, alone=True),
        f"{WEIGHTS}: layers.0.attn.q_proj.lora_a.weight",
        "is torchtune's; save with",
    ),
    "mistral-finetune": (
        files(**{"lora.safetensors": b"x", "params.json": {"dim": 16}}),
        "lora.safetensors",
        "is mistral-finetune's, .*; train with PEFT",
    ),
    "mistral-finetune's names": (
        tensors({"layers.0.attention.wq.lora_A.weight": (8, 16)}, alone=True),
        f"{WEIGHTS}: layers.0.attention.wq.lora_A.weight",
        "is mistral-finetune's, .*; train with PEFT",
    ),
    "diffusers": (
        files(**{"pytorch_lora_weights.safetensors": b"x"}),
        "pytorch_lora_weights.safetensors",
        "is a LoRA of an image model",
    ),
    "diffusers' names": (
        tensors({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (8, 16)}, alone=True),
        f"{WEIGHTS}: unet.down_blocks.0.attentions.0.to_q.lora_A.weight",
        r"is a LoRA of an image model \(kohya, diffusers\)",
    ),
    "kohya": (
        tensors({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (8, 16)}, alone=True),
        f"{WEIGHTS}: lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
        r"is a LoRA of an image model \(kohya, diffusers\)",
    ),
    "MLX with alpha": (
        mlx({"alpha": 16}),
        f"{CONFIG}: lora_parameters.alpha",
        "so the scale is not certain",
    ),
    "MLX without a scale": (mlx({"scale": None}), f"{CONFIG}: lora_parameters.scale", "must be the positive scale"),
    "MLX without parameters": (mlx(lora_parameters=None), f"{CONFIG}: lora_parameters", "the scale is not known"),
    "MLX's DoRA": (mlx(fine_tune_type="dora"), f"{CONFIG}: fine_tune_type", "only MLX's lora can be served"),
    "MLX of another rank": (mlx({"rank": 16}), f"{CONFIG}: lora_parameters.rank", "is not the rank of the"),
    "MLX of 2023": (
        files(**{"adapters.npz": b"PK\x03\x04", CONFIG: {"lora_layers": 2}}),
        "adapters.npz",
        "is MLX's of before 2024; save it again with mlx_lm",
    ),
    "mlx-vlm": (also(**{CONFIG: {"rank": 16, "alpha": 0.1, "dropout": 0}}), f"{CONFIG}: peft_type", "is mlx-vlm's"),
    "five words of a config": (
        also(**{CONFIG: {"base_model": "tiny"}}),
        f"{CONFIG}: peft_type",
        r"this is no PEFT configuration \(its fields: base_model\); save it with PEFT's",
    ),
    "a model's config": (
        also(**{CONFIG: {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}}),
        f"{CONFIG}: peft_type",
        "is a model's config.json; publish the adapter's own folder",
    ),
    "a whole model": (whole_model, "model.safetensors", "is a whole model's, .* `turntable serve --model FOLDER`"),
    "DeepSpeed's checkpoint": (
        files(**{"mp_rank_00_model_states.pt": PICKLE}),
        "mp_rank_00_model_states.pt",
        "is DeepSpeed's own checkpoint; run its zero_to_fp32.py",
    ),
    "ZeRO-3": (tensors({EMPTY: (0,)}), f"{WEIGHTS}: {EMPTY}", "is empty: DeepSpeed's ZeRO-3 .* save again"),
    "DoRA": (tensors({DORA: (16,)}), f"{WEIGHTS}: {DORA}", "is a DoRA magnitude; train with use_dora=false"),
    "the wrapped model whole": (
        tensors({f"base_model.model.{Q0}.base_layer.weight": (16, 16)}),
        f"{WEIGHTS}: base_model.model.{Q0}.base_layer.weight",
        "is a weight of the base itself: the whole wrapped model was saved; save it with PEFT's model.save_pretrained",
    ),
    "modules_to_save": (
        tensors({"base_model.model.lm_head.modules_to_save.default.weight": (64, 16)}),
        f"{WEIGHTS}: base_model.model.lm_head.modules_to_save.default.weight",
        r"is a fully trained module \(modules_to_save\); train without modules_to_save",
    ),
    "a trained head": (
        tensors({"base_model.model.lm_head.weight": (64, 16)}),
        f"{WEIGHTS}: base_model.model.lm_head.weight",
        r"a fully trained module \(modules_to_save\), or the whole wrapped model was saved",
    ),
    "embeddings": (
        tensors({"base_model.model.model.embed_tokens.lora_embedding_A": (8, 64)}),
        f"{WEIGHTS}: base_model.model.model.embed_tokens.lora_embedding_A",
        "is an adapted embedding or a trained token; target linear layers only",
    ),
    "AdaLoRA": (
        tensors({f"base_model.model.{Q0}.lora_E": (8, 1)}),
        f"{WEIGHTS}: base_model.model.{Q0}.lora_E",
        "is AdaLoRA's; train plain LoRA",
    ),
    "fused attention": (
        tensors(
            {key("model.layers.0.self_attn.qkv_proj", side): shape for side, shape in (("A", (8, 16)), ("B", (32, 8)))}
        ),
        f"{WEIGHTS}: model.layers.0.self_attn.qkv_proj",
        "is fused, the served base has q_proj, k_proj and v_proj apart; train .* with these as target_modules",
    ),
    "a multimodal class": (
        renamed(lambda name: name.replace("model.layers", "model.language_model.layers")),
        f"{WEIGHTS}: model.language_model.layers.0.mlp.down_proj",
        "belongs to a multimodal model class",
    ),
    "the bare AutoModel": (
        renamed(lambda name: name.replace(".model.model.", ".model.")),
        f"{WEIGHTS}: layers.0.mlp.down_proj",
        "was trained on the bare AutoModel; train on AutoModelForCausalLM",
    ),
    "another tool's adapters in one file": (
        tensors({key(Q0, "A").replace(".weight", ".other.weight"): (8, 16)}),
        f"{WEIGHTS}: {key(Q0, 'A')}",
        "is there twice once names are plain; save one adapter alone",
    ),
    "a shard missing": (weights_at(SHARDS[1]), SHARDS[1], "is one of 2 shards and 1 are here; give them all"),
    "a classifier": (
        renamed(str, task_type="SEQ_CLS"),
        f"{CONFIG}: task_type",
        "is 'SEQ_CLS': .*; train with CAUSAL_LM",
    ),
    "a tagger": (renamed(str, task_type="TOKEN_CLS"), f"{CONFIG}: task_type", "train with CAUSAL_LM"),
    "an embedder": (renamed(str, task_type="FEATURE_EXTRACTION"), f"{CONFIG}: task_type", "train with CAUSAL_LM"),
    "a translator": (renamed(str, task_type="SEQ_2_SEQ_LM"), f"{CONFIG}: task_type", "train with CAUSAL_LM"),
}


def published(directory: Path, scratch: Path, base: BaseModel | None, *, convert_it: bool) -> Path:
    """What a client packs, the gateway unpacks, converts when asked, and checks."""
    arrived = scratch / "arrived"
    arrived.mkdir()
    unpack(pack(directory, scratch / "a.tar.gz", convert=convert_it), arrived, max_bytes=1 << 24, convert=convert_it)
    if convert_it:
        convert(arrived)
    preflight(arrived, base, max_rank=16)
    return arrived


@pytest.mark.parametrize("convert_it", [False, True], ids=["", "--convert"])
@pytest.mark.parametrize("write", AS_THEY_ARE.values(), ids=AS_THEY_ARE.keys())
def test_what_is_in_pefts_layout_is_served_as_it_is(
    tmp_path: Path, base: BaseModel, write: Write, convert_it: bool
) -> None:
    write(tmp_path / "adapter")
    arrived = published(tmp_path / "adapter", tmp_path, base, convert_it=convert_it)
    for name in (CONFIG, WEIGHTS):
        assert (arrived / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


@pytest.mark.parametrize("write", CONVERTED.values(), ids=CONVERTED.keys())
def test_what_can_be_converted_is_the_same_adapter_afterwards(tmp_path: Path, base: BaseModel, write: Write) -> None:
    write(tmp_path / "adapter")
    arrived = published(tmp_path / "adapter", tmp_path, base, convert_it=True)
    found, wanted = load_file(arrived / WEIGHTS), Adapter().tensors
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].tobytes() == tensor.tobytes()
    assert preflight(arrived, base, max_rank=16).scaling(Q0) == 2.0


@pytest.mark.parametrize("write", CONVERTED.values(), ids=CONVERTED.keys())
def test_without_being_asked_nothing_is_converted_and_the_refusal_says_how(
    tmp_path: Path, base: BaseModel, write: Write
) -> None:
    write(tmp_path / "adapter")
    with pytest.raises(PreflightError, match="publish it with --convert"):
        published(tmp_path / "adapter", tmp_path, base, convert_it=False)


@pytest.mark.parametrize(("write", "where", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_served_is_refused_by_its_tools_name(
    tmp_path: Path, base: BaseModel, write: Write, where: str, said: str
) -> None:
    write(tmp_path / "adapter")
    with pytest.raises(PreflightError, match=said) as refused:
        published(tmp_path / "adapter", tmp_path, base, convert_it=True)
    assert refused.value.where == where
    assert str(refused.value).endswith(".")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("kind", ["torchtune's names", "mistral-finetune's names", "kohya", "diffusers' names"])
def test_another_tools_names_are_refused_when_the_base_is_out_of_reach_too(tmp_path: Path, kind: str) -> None:
    write, where, said = REFUSED[kind]
    write(tmp_path / "adapter")
    with pytest.raises(PreflightError, match=said) as refused:
        published(tmp_path / "adapter", tmp_path, None, convert_it=True)
    assert refused.value.where == where


def test_a_conversion_says_what_it_did_and_to_what(tmp_path: Path) -> None:
    CONVERTED["all of it at once"](tmp_path / "adapter")
    original = {
        name: hashlib.sha256((tmp_path / "adapter" / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)
    }
    done = convert(tmp_path / "adapter")
    assert done is not None
    assert done.original_files == original
    for words in ("'module.' of DDP", "'_orig_mod.' of torch.compile", "'.default'", "no 'base_model.model.' in front"):
        assert any(words in step for step in done.steps), done.steps
    assert convert(tmp_path / "adapter") is None


def test_modules_that_a_config_names_lose_their_wrappers_too(tmp_path: Path, base: BaseModel) -> None:
    adapter = Adapter(tensors=lora(in_layers({"self_attn.q_proj": ALL_LINEAR["self_attn.q_proj"]})))
    modules = [f"_orig_mod.{module}" for module in in_layers({"self_attn.q_proj": (16, 16)})]
    adapter.config.update(target_modules=modules, alpha_pattern={f"_orig_mod.{Q0}": 32})
    adapter.tensors = {f"_orig_mod.{name}": tensor for name, tensor in adapter.tensors.items()}
    arrived = published(adapter.write(tmp_path / "adapter"), tmp_path, base, convert_it=True)
    assert preflight(arrived, base, max_rank=16).scaling(Q0) == 4.0


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of random weights, as transformers saves it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    directory = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(shape).save_pretrained(directory)
    return directory


def tuned(llama: Path, **options: Any) -> Any:
    """A PEFT model of the Llama whose adapter is strong."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.arange(1, 33).reshape(1, -1)).logits


def loaded(llama: Path, adapter: Path) -> Any:
    """PEFT's own model of an adapter's directory."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(adapter)).eval()


def saved_state(model: Any, directory: Path, configured: Any, prefix: str = "") -> None:
    """What a script leaves that saves a wrapped model's LoRA tensors by hand."""
    from safetensors.torch import save_file as save_torch

    directory.mkdir()
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    save_torch(state, directory / WEIGHTS)
    configured.peft_config["default"].save_pretrained(directory)


def wrapped_by_compile(model: Any, directory: Path) -> None:
    saved_state(model, directory, model, "_orig_mod.")  # torch.compile itself takes a minute to import


def wrapped_by_parallel(model: Any, directory: Path) -> None:
    import torch

    saved_state(torch.nn.DataParallel(model), directory, model)


def saved_by_mlx(model: Any, directory: Path) -> None:
    """The very matrices as mlx_lm lays them out, with the scale that PEFT computes with."""
    model.save_pretrained(directory)
    tensors = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    save_file(as_mlx(tensors), directory / "adapters.safetensors")
    parameters = {"rank": 4, "dropout": 0.0, "scale": 12 / 4}
    (directory / CONFIG).write_text(json.dumps({"fine_tune_type": "lora", "lora_parameters": parameters}))


@pytest.mark.parametrize(
    "save", [wrapped_by_compile, wrapped_by_parallel, saved_by_mlx], ids=lambda save: save.__name__
)
def test_peft_answers_with_a_converted_adapter_as_the_model_that_was_trained(
    llama: Path, tmp_path: Path, save: Callable[[Any, Path], None]
) -> None:
    model = tuned(llama)
    save(model, tmp_path / "adapter")
    arrived = published(tmp_path / "adapter", tmp_path, BaseModel.read(llama), convert_it=True)
    found, wanted = logits(loaded(llama, arrived)), logits(model)
    assert (found == wanted).all()
    with model.disable_adapter():
        assert (logits(model) - wanted).abs().max() > 0.1


def test_mlx_and_peft_compute_the_same_layer(tmp_path: Path) -> None:
    """The formula of mlx_lm's LoRALinear, written out, against PEFT's on the converted tensors."""
    mlx({"scale": 3.0})(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapters.safetensors")
    x = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    in_mlx = 3.0 * ((x @ saved[f"{Q0}.lora_a"]) @ saved[f"{Q0}.lora_b"])
    arrived = published(tmp_path / "adapter", tmp_path, None, convert_it=True)
    config, tensors_ = preflight(arrived, None, max_rank=16), load_file(arrived / WEIGHTS)
    in_peft = config.scaling(Q0) * (x @ tensors_[key(Q0, "A")].T) @ tensors_[key(Q0, "B")].T
    assert config.lora_alpha == 24
    np.testing.assert_allclose(in_peft, in_mlx, rtol=1e-5)
