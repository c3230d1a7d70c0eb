"""Two-layer random models of every current family of language models, built from transformers' own configurations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

VOCABULARY = 160
_TEXT: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_GROUPS = {"n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1}
_LATENT = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
_DELTA = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
_MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_chunk_size": 16}
_SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_PER_LAYER = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCABULARY}


@dataclass(frozen=True)
class Family:
    """A family: `models` are well-known ones, `config` what its two-layer model sets beside the common sizes.

    `without` are common sizes that its configuration does not have. With `nested`, the sizes go into `text_config`.
    """

    models: str
    config: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    nested: bool = False


FAMILIES: Mapping[str, Family] = {
    "afmoe": Family("Arcee Trinity", {**_EXPERTS, "num_dense_layers": 1, "num_shared_experts": 1, **_SLIDING}),
    "apertus": Family("Apertus"),
    "arcee": Family("AFM 4.5B"),
    "bamba": Family("Bamba", {**_MAMBA2, "attn_layer_indices": [1]}, without=("head_dim",)),
    "bloom": Family("BLOOM", {"n_layer": 2, "n_head": 4}, without=("num_hidden_layers", "num_attention_heads")),
    "cohere": Family("Command R", {"logit_scale": 0.0625}, without=("head_dim",)),
    "cohere2": Family("Command R7B, Command A", {"logit_scale": 0.25, **_SLIDING}),
    "dbrx": Family(
        "DBRX",
        {
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 256,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
        },
        without=("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    ),
    "deepseek_v2": Family(
        "DeepSeek V2", {**_ROUTED, **_GROUPS, **_LATENT, "topk_method": "greedy"}, without=("head_dim",)
    ),
    "deepseek_v3": Family("DeepSeek V3, R1", {**_ROUTED, **_GROUPS, **_LATENT}, without=("head_dim",)),
    "dots1": Family("dots.llm1", {**_ROUTED, **_GROUPS}),
    "ernie4_5": Family("ERNIE 4.5"),
    "ernie4_5_moe": Family(
        "ERNIE 4.5 MoE",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 48, "moe_layer_start_index": 1},
        without=("head_dim",),
    ),
    "exaone4": Family("EXAONE 4", _SLIDING),
    "falcon": Family(
        "Falcon 7B",
        {"new_decoder_architecture": False, "alibi": False, "ffn_hidden_size": 96},
        without=("intermediate_size", "num_key_value_heads", "head_dim"),
    ),
    "falcon_h1": Family(
        "Falcon-H1", {**_MAMBA2, "mamba_d_ssm": 128, "lm_head_multiplier": 0.5, "ssm_multipliers": [1.2] * 5}
    ),
    "flex_olmo": Family("FlexOlmo", {"num_experts": 4, "num_experts_per_tok": 2}, without=("head_dim",)),
    "gemma": Family("Gemma"),
    "gemma2": Family(
        "Gemma 2",
        {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 16, **_SLIDING},
    ),
    "gemma3_text": Family("Gemma 3 1B", {"query_pre_attn_scalar": 16, **_SLIDING}),
    "gemma3": Family("Gemma 3", {"query_pre_attn_scalar": 16, **_SLIDING}, nested=True),
    "gemma3n_text": Family(
        "Gemma 3n (text)",
        {
            **_SLIDING,
            **_PER_LAYER,
            "num_kv_shared_layers": 0,
            "laurel_rank": 8,
            "intermediate_size": [96, 96],
            "activation_sparsity_pattern": [0.5, 0.0],
        },
    ),
    "gemma4_text": Family("Gemma 4 (text)", {**_SLIDING, **_PER_LAYER, "num_kv_shared_layers": 0}),
    "gemma4": Family("Gemma 4", {**_SLIDING, **_PER_LAYER, "num_kv_shared_layers": 0}, nested=True),
    "glm": Family("GLM-4 9B"),
    "glm4": Family("GLM-4 0414"),
    "glm4_moe": Family("GLM 4.5, 4.6, 4.7", {**_ROUTED, **_GROUPS}),
    "glm4_moe_lite": Family(
        "GLM 4.7 Flash",
        {**_ROUTED, **_GROUPS, **_LATENT, "mlp_layer_types": ["dense", "sparse"]},
        without=("head_dim",),
    ),
    "gpt2": Family("GPT-2", {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 256}, without=tuple(_TEXT)[1:8]),
    "gpt_bigcode": Family(
        "StarCoder", {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 256}, without=tuple(_TEXT)[1:8]
    ),
    "gpt_neox": Family("Pythia", without=("num_key_value_heads", "head_dim")),
    "gpt_oss": Family("gpt-oss", {"num_local_experts": 4, "num_experts_per_tok": 2, **_SLIDING}),
    "granite": Family(
        "Granite 3, 4 dense",
        {
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.1,
            "attention_dropout": 0.1,
        },
        without=("head_dim",),
    ),
    "granitemoe": Family(
        "Granite 3 MoE",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 6.0, "residual_multiplier": 0.22},
        without=("head_dim",),
    ),
    "granitemoehybrid": Family(
        "Granite 4 hybrid",
        {
            **_MAMBA2,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 48,
            "logits_scaling": 6.0,
            "layer_types": ["linear_attention", "full_attention"],
        },
        without=("head_dim",),
    ),
    "helium": Family("Helium"),
    "hunyuan_v1_dense": Family("Hunyuan dense"),
    "hunyuan_v1_moe": Family("Hunyuan A13B", {"num_experts": 4, "moe_topk": [2, 2]}),
    "jamba": Family(
        "Jamba",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_dt_rank": 8,
            "use_mamba_kernels": False,
        },
        without=("head_dim",),
    ),
    "kimi_linear": Family(
        "Kimi Linear",
        {
            **_LATENT,
            "q_lora_rank": None,
            "num_experts": 4,
            "num_experts_per_token": 2,
            "moe_intermediate_size": 48,
            "linear_head_dim": 16,
            "linear_num_heads": 4,
            "layer_types": ["linear_attention", "full_attention"],
            "mlp_layer_types": ["dense", "sparse"],
        },
    ),
    "lfm2": Family("LFM2", {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16}, without=("head_dim",)),
    "lfm2_moe": Family(
        "LFM2 MoE",
        {**_EXPERTS, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
        without=("head_dim",),
    ),
    "llama": Family("Llama 2, 3, SmolLM2, Yi"),
    "llama4_text": Family(
        "Llama 4 (text)",
        {
            "num_local_experts": 4,
            "intermediate_size_mlp": 96,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 16,
            "no_rope_layers": [1, 0],
        },
    ),
    "mamba2": Family(
        "Mamba 2, Codestral Mamba",
        {"num_heads": 4, "head_dim": 32, "state_size": 16, "chunk_size": 16, "n_groups": 1},
        without=("intermediate_size", "num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
    ),
    "minimax": Family(
        "MiniMax Text-01, M1",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "block_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "minimax_m2": Family("MiniMax M2", {"num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 16}),
    "ministral": Family("Ministral 8B", _SLIDING),
    "ministral3": Family("Ministral 3 (text)"),
    "mistral": Family("Mistral 7B, Nemo", {"sliding_window": 8}),
    "mistral3": Family("Mistral Small 3.1, 3.2", nested=True),
    "mixtral": Family("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02}),
    "mpt": Family("MPT", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}, without=tuple(_TEXT)[1:8]),
    "nanochat": Family("nanochat", {"final_logit_softcapping": 2.0}),
    "nemotron": Family("Nemotron, Minitron"),
    "nemotron_h": Family(
        "Nemotron-H, Nemotron 3",
        {
            **_ROUTED,
            "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
            "moe_shared_expert_intermediate_size": 48,
            "mamba_num_heads": 4,
            "mamba_head_dim": 32,
            "ssm_state_size": 16,
            "n_groups": 1,
            "chunk_size": 16,
        },
        without=("num_hidden_layers",),
    ),
    "olmo": Family("OLMo", without=("head_dim",)),
    "olmo2": Family("OLMo 2", without=("head_dim",)),
    "olmo3": Family("OLMo 3", _SLIDING, without=("head_dim",)),
    "olmo_hybrid": Family("OLMo Hybrid", _DELTA, without=("head_dim",)),
    "olmoe": Family("OLMoE", {"num_experts": 4, "num_experts_per_tok": 2}, without=("head_dim",)),
    "phi": Family("Phi 1.5, 2", without=("head_dim",)),
    "phi3": Family("Phi 3, 3.5, 4", {"original_max_position_embeddings": 256}, without=("head_dim",)),
    "phimoe": Family(
        "Phi 3.5 MoE",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.0, "input_jitter_noise": 0.0},
        without=("head_dim",),
    ),
    "qwen2": Family("Qwen 2, 2.5, DeepSeek R1 distilled", without=("head_dim",)),
    "qwen2_moe": Family(
        "Qwen 1.5 MoE, Qwen 2 MoE", {**_EXPERTS, "shared_expert_intermediate_size": 48}, without=("head_dim",)
    ),
    "qwen3": Family("Qwen 3"),
    "qwen3_moe": Family("Qwen 3 MoE", _EXPERTS),
    "qwen3_next": Family("Qwen 3 Next", {**_EXPERTS, **_DELTA, "shared_expert_intermediate_size": 48}),
    "qwen3_5_text": Family("Qwen 3.5 (text)", _DELTA),
    "qwen3_5": Family("Qwen 3.5, 3.6", _DELTA, nested=True),
    "qwen3_5_moe_text": Family("Qwen 3.5 MoE (text)", {**_EXPERTS, **_DELTA, "shared_expert_intermediate_size": 48}),
    "seed_oss": Family("Seed-OSS", {"attention_dropout": 0.1, "residual_dropout": 0.1}),
    "smollm3": Family("SmolLM3", {"no_rope_layers": [1, 0]}, without=("head_dim",)),
    "stablelm": Family("StableLM", without=("head_dim",)),
    "starcoder2": Family("StarCoder 2", {"sliding_window": 8}, without=("head_dim",)),
}
_TOWERS: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "image_size": 28,
    "patch_size": 14,
    "depth": 1,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "mm_tokens_per_image": 1,
}


def build(name: str, *, seed: int = 0, **larger: int) -> Any:
    """Return a family's model with random weights, in fp32; `larger` replaces common sizes."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    family = FAMILIES[name]
    common = {**_TEXT, **larger}
    sizes = {key: value for key, value in common.items() if key not in family.without} | dict(family.config)
    kind = transformers.CONFIG_MAPPING[name]
    tokens = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}
    config = kind(text_config=sizes, vision_config=dict(_TOWERS), **tokens) if family.nested else kind(**sizes)
    torch.manual_seed(seed)
    architecture = AutoModelForImageTextToText if family.nested else AutoModelForCausalLM
    model = architecture.from_config(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "norm" in parameter_name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model
