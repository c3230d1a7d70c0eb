"""The broken half of the corpus: each kind in words, how to make it, and where preflight must say that it is broken."""

from tests.adapters.conftest import ATTENTION, Q0, in_layers, key, lora
from tests.adapters.corpus import (
    CONFIG,
    F32,
    FIRST,
    FIRST_ATTENTION,
    NAN_BF16,
    PARITY,
    TRAINING,
    WEIGHTS,
    Write,
    changed,
    config,
    document,
    filled,
    parity,
    pickled,
    queries_of_rank,
    raw_file,
    raw_tensors,
    renamed,
    resized,
    tensors,
    training,
    weights,
    with_tensor,
    without,
    without_config,
    zeros,
)

_NESTED = b'{"a":' * 100_000 + b"1" + b"}" * 100_000

# The engine loads these without an error.
SILENT: dict[str, tuple[Write, str]] = {
    "prefix of another model class": (
        renamed(".model.layers.", ".language_model.model.layers."),
        f"{WEIGHTS}: language_model.{FIRST}",
    ),
    "no PEFT prefix": (renamed("base_model.model.", ""), f"{WEIGHTS}: {FIRST}.lora_A.weight"),
    "keys of a wrapped module": (
        renamed(".self_attn.", ".self_attn.inner."),
        f"{WEIGHTS}: model.layers.0.self_attn.inner.o_proj",
    ),
    "made for a half-size model": (
        tensors(lambda _: lora(resized(in_layers(ATTENTION), 0.5))),
        f"{WEIGHTS}: {FIRST_ATTENTION}",
    ),
    "trained on another base": (training({"base_config_sha256": "0" * 64}), f"{TRAINING}: base_config_sha256"),
    "another PEFT method": (config(peft_type="ADALORA"), f"{CONFIG}: peft_type"),
    "r unlike the tensors": (config(r=16), f"{WEIGHTS}: {FIRST}"),
    "absurd lora_alpha": (config(lora_alpha=16_000), f"{CONFIG}: lora_alpha"),
    "NaN": (filled(key(Q0, "A"), float("nan")), f"{WEIGHTS}: {key(Q0, 'A')}"),
    "every B zero": (zeros("B"), WEIGHTS),
    "B missing for a layer": (without(key(Q0, "B")), f"{WEIGHTS}: {key(Q0, 'B')}"),
    "target_parameters": (config(target_parameters=["mlp.experts.gate_up_proj"]), f"{CONFIG}: target_parameters"),
    "KaSA": (config(kasa_config={"beta": 0.0001}), f"{CONFIG}: kasa_config"),
    "MonteCLoRA": (config(monteclora_config={"num_samples": 4}), f"{CONFIG}: monteclora_config"),
    "VeLoRA": (config(velora_config={"rank": 8}), f"{CONFIG}: velora_config"),
    "Arrow": (config(arrow_config={"top_k": 3}), f"{CONFIG}: arrow_config"),
}

TENSORS: dict[str, tuple[Write, str]] = {
    "keys with PEFT's adapter name left in": (
        renamed(".weight", ".default.weight"),
        f"{WEIGHTS}: base_model.model.{FIRST}.lora_A.default.weight",
    ),
    "made for a double-size model": (
        tensors(lambda _: lora(resized(in_layers(ATTENTION), 2))),
        f"{WEIGHTS}: {FIRST_ATTENTION}",
    ),
    "made for a model with more layers": (
        tensors(lambda good: good | lora({"model.layers.2.self_attn.q_proj": (16, 16)})),
        f"{WEIGHTS}: model.layers.2.self_attn.q_proj",
    ),
    "A missing": (without(key(Q0, "A")), f"{WEIGHTS}: {key(Q0, 'A')}"),
    "ranks of A and B differ": (with_tensor(key(Q0, "B"), 16, 4), f"{WEIGHTS}: {Q0}"),
    "rank unlike the rank pattern": (changed(queries_of_rank(4, q_proj=16)), f"{WEIGHTS}: {Q0}"),
    "rank pattern of another module": (changed(queries_of_rank(16, v_proj=16)), f"{WEIGHTS}: {Q0}"),
    "A is a vector": (with_tensor(key(Q0, "A"), 8), f"{WEIGHTS}: {Q0}"),
    "A transposed": (with_tensor(key(Q0, "A"), 16, 8), f"{WEIGHTS}: {Q0}"),
    "no tensors at all": (tensors(lambda _: {}), WEIGHTS),
    "trained tokens": (
        with_tensor("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", 2, 16),
        f"{WEIGHTS}: base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
    ),
    "a DoRA magnitude": (
        with_tensor(f"base_model.model.{Q0}.lora_magnitude_vector", 16),
        f"{WEIGHTS}: base_model.model.{Q0}.lora_magnitude_vector",
    ),
    "a bias": (
        with_tensor(f"base_model.model.{Q0}.lora_B.bias", 16),
        f"{WEIGHTS}: base_model.model.{Q0}.lora_B.bias",
    ),
    "a fully trained module": (
        with_tensor("base_model.model.lm_head.weight", 64, 16),
        f"{WEIGHTS}: base_model.model.lm_head.weight",
    ),
    "adapted embeddings": (
        with_tensor("base_model.model.model.embed_tokens.lora_embedding_A", 8, 64),
        f"{WEIGHTS}: base_model.model.model.embed_tokens.lora_embedding_A",
    ),
    "an adapted head": (tensors(lambda good: good | lora({"lm_head": (64, 16)})), f"{WEIGHTS}: lm_head"),
    "a module name that is a path": (
        renamed("model.layers.0.self_attn.q_proj", "../../etc/q_proj"),
        f"{WEIGHTS}: ../../etc/q_proj",
    ),
    "a tensor name of control characters": (
        with_tensor("base_model.model.\n\x1b[2J", 8, 16),
        f"{WEIGHTS}: 'base_model.model.\\n\\x1b[2J'",
    ),
    "infinity": (filled(key(Q0, "B"), float("inf")), f"{WEIGHTS}: {key(Q0, 'B')}"),
    "NaN in bfloat16": (weights(raw_file(NAN_BF16)), f"{WEIGHTS}: {key(Q0, 'B')}"),
    "a number beyond float16": (filled(key(Q0, "A"), -1e6), f"{WEIGHTS}: {key(Q0, 'A')}"),
    "a number beyond float16 once scaled": (filled(key(Q0, "B"), 40_000.0), f"{WEIGHTS}: {key(Q0, 'B')}"),
    "every A zero": (zeros("A"), WEIGHTS),
    "quantised to int8": (
        weights(raw_file(raw_tensors("I8", 1, lambda tensor: tensor.tobytes()))),
        f"{WEIGHTS}: {key(FIRST, 'A')}",
    ),
    "quantised to float8": (
        weights(raw_file(raw_tensors("F8_E4M3", 1, lambda tensor: tensor.tobytes()))),
        f"{WEIGHTS}: {key(FIRST, 'A')}",
    ),
}

FILES: dict[str, tuple[Write, str]] = {
    "pickled weights": (pickled, WEIGHTS),
    "weights cut in the middle": (weights(lambda whole: whole[: len(whole) // 2]), WEIGHTS),
    "weights cut in the header": (weights(lambda whole: whole[:40]), WEIGHTS),
    "weights cut in the length": (weights(lambda whole: whole[:4]), WEIGHTS),
    "empty weights": (weights(b""), WEIGHTS),
    "weights with bytes left over": (weights(lambda whole: whole + b"\0"), WEIGHTS),
    "an LFS pointer": (weights(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), WEIGHTS),
    "a tensor beyond the file": (weights(raw_file(F32, beyond=64)), WEIGHTS),
    "a tensor named twice": (weights(raw_file(F32, twice=key(Q0, "A"))), WEIGHTS),
    "a header that claims an exabyte": (weights(lambda whole: b"\0" * 7 + b"\x10" + whole[8:]), WEIGHTS),
    "config missing": (without_config, CONFIG),
    "config that is not JSON": (document(CONFIG, b"r: 8"), CONFIG),
    "config that is not UTF-8": (document(CONFIG, b'{"peft_type": "LOR\xc0"}'), CONFIG),
    "config that is no object": (document(CONFIG, b"[]"), CONFIG),
    "config nested without bottom": (document(CONFIG, _NESTED), CONFIG),
    "config larger than any": (document(CONFIG, b" " * (17 << 20)), CONFIG),
    "a training record that is no object": (training([1]), TRAINING),
    "parity vectors that are not the trainer's": (document(PARITY, b'{"format": 2, "rows": []}'), f"{PARITY}: format"),
    "parity vectors without an adapter": (parity(adapter=None), f"{PARITY}: rows.0.adapter"),
    "parity vectors that are no log-probabilities": (parity(base=[0.5]), f"{PARITY}: rows.0.base.0"),
    "parity vectors at no token": (parity(positions=[3]), f"{PARITY}: rows.0"),
    "parity vectors of unequal lengths": (parity(base=[]), f"{PARITY}: rows.0"),
    "parity vectors of another vocabulary": (parity(input_ids=[1, 1 << 40, 3]), f"{PARITY}: rows.0"),
    "parity vectors larger than any": (document(PARITY, b" " * (3 << 20)), PARITY),
    "a training record with NaN": (training({"loss": float("nan")}), TRAINING),
}

FIELDS: dict[str, tuple[Write, str]] = {
    "DoRA": (config(use_dora=True), f"{CONFIG}: use_dora"),
    "biases": (config(bias="all"), f"{CONFIG}: bias"),
    "LoRA biases": (config(lora_bias=True), f"{CONFIG}: lora_bias"),
    "modules_to_save": (config(modules_to_save=["lm_head"]), f"{CONFIG}: modules_to_save"),
    "trainable tokens": (config(trainable_token_indices=[5]), f"{CONFIG}: trainable_token_indices"),
    "layer replication": (config(layer_replication=[[0, 2], [1, 2]]), f"{CONFIG}: layer_replication"),
    "activated LoRA": (config(alora_invocation_tokens=[1, 2]), f"{CONFIG}: alora_invocation_tokens"),
    "QALoRA": (config(use_qalora=True), f"{CONFIG}: use_qalora"),
    "BD-LoRA": (config(use_bdlora={"nblocks": 2}), f"{CONFIG}: use_bdlora"),
    "Megatron layers": (config(megatron_config={"tensor_model_parallel_size": 2}), f"{CONFIG}: megatron_config"),
    "an init that changes the base": (config(init_lora_weights="pissa"), f"{CONFIG}: init_lora_weights"),
    "rank over the engine's": (config(r=32), f"{CONFIG}: r"),
    "rank over the largest there is": (config(r=1024), f"{CONFIG}: r"),
    "rank pattern over the engine's": (config(rank_pattern={"q_proj": 32}), f"{CONFIG}: rank_pattern"),
    "a pattern that takes forever to match": (config(rank_pattern={"(a+)+b": 8}), f"{CONFIG}: rank_pattern"),
    "a pattern that is no pattern": (config(alpha_pattern={"(q_proj": 8}), f"{CONFIG}: alpha_pattern"),
    "absurd alpha pattern": (config(alpha_pattern={"q_proj": 1e6}), f"{CONFIG}: alpha_pattern"),
    "vanishing lora_alpha": (config(lora_alpha=1e-9), f"{CONFIG}: lora_alpha"),
    "absurd scaling by rsLoRA": (config(lora_alpha=256, use_rslora=True), f"{CONFIG}: lora_alpha"),
    "use_rslora that is neither": (config(use_rslora="no"), f"{CONFIG}: use_rslora"),
    "no rank": (config(r=None), f"{CONFIG}: r"),
    "no target modules": (config(target_modules=[]), f"{CONFIG}: target_modules"),
    "other base weights": (training({"base_weights_sha256": "0" * 64}), f"{TRAINING}: base_weights_sha256"),
    "another tokenizer": (training({"tokenizer_sha256": "0" * 64}), f"{TRAINING}: tokenizer_sha256"),
    "another chat template": (training({"chat_template_sha256": "0" * 64}), f"{TRAINING}: chat_template_sha256"),
    "a template among the template's variables": (
        training({"chat_template_kwargs": {"enable_thinking": False, "chat_template": "{{ 7 * 7 }}"}}),
        f"{TRAINING}: chat_template_kwargs",
    ),
    "variables of the template that are no object": (
        training({"chat_template_kwargs": ["chat_template"]}),
        f"{TRAINING}: chat_template_kwargs",
    ),
    "a lineage that is no hash": (training({"base_config_sha256": 7}), f"{TRAINING}: base_config_sha256"),
}

BROKEN = {**SILENT, **TENSORS, **FILES, **FIELDS}
