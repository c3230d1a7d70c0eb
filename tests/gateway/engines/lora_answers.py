"""Answers of a real vLLM in this process: `python -m tests.gateway.engines.lora_answers FOLDER DTYPE` writes them down.

FOLDER holds `base` and PEFT adapters. Three slots serve five adapters, so weights move in and out of slots between
steps; a step computes at most 48 tokens, so that prompts are computed in chunks beside the decoding of others.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 512
ADAPTERS = ("low", "most", "high", "ends", "some")
ROUNDS = (("low", None, "most", "low", None, "high"), ("ends", "some", None, "high", "some"), ("most", "ends", "low"))
PATCHES = ("cpu-slow-lora", "cpu-slow-norms")


def main() -> int:
    """Ask for the answers of every round, all requests of a round in one batch, and write them to FOLDER/DTYPE.json."""
    folder, dtype = Path(sys.argv[1]), sys.argv[2]
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_PLUGINS": "turntable_patches", "HF_HUB_OFFLINE": "1"}
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    from gateway.engines.plugin.patches import applied_patches

    engine = LLM(
        str(folder / "base"),
        dtype=dtype,
        skip_tokenizer_init=True,
        max_model_len=256,
        max_num_batched_tokens=48,
        max_num_seqs=8,
        max_logprobs=VOCABULARY,
        enable_prefix_caching=False,
        enable_lora=True,
        max_loras=3,
        max_cpu_loras=5,
        max_lora_rank=64,
    )
    assert set(PATCHES) <= set(applied_patches())
    sampling = SamplingParams(max_tokens=5, temperature=0, logprobs=VOCABULARY, ignore_eos=True, detokenize=False)
    random = torch.Generator().manual_seed(5)
    answers: list[dict[str, Any]] = []
    for names in ROUNDS:
        lengths = torch.randint(1, 100, (len(names),), generator=random).tolist()
        prompts = [torch.randint(VOCABULARY, (length,), generator=random).tolist() for length in lengths]
        adapters = [name and LoRARequest(name, ADAPTERS.index(name) + 1, str(folder / name)) for name in names]
        found = engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], sampling, lora_request=adapters, use_tqdm=False
        )
        for name, prompt, output in zip(names, prompts, found, strict=True):
            (answer,) = output.outputs
            rows = [[entry[token].logprob for token in range(VOCABULARY)] for entry in answer.logprobs]
            answers.append({"adapter": name, "prompt": prompt, "tokens": list(answer.token_ids), "logprobs": rows})
    (folder / f"{dtype}.json").write_text(json.dumps(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
