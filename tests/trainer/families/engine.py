"""Serve a family's two-layer model and a LoRA adapter with vLLM, and print its difference to plain PEFT as JSON.

Run as a program: `python -m tests.trainer.families.engine FOLDER`, with `base/`, `adapter/` and `expected.json` in it.
"""

import json
import os
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Compare the log-probabilities of the tokens of each row, of base and adapter, with the expected ones."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    document = json.loads((folder / "expected.json").read_bytes())
    engine = LLM(
        model=str(folder / "base"),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        enable_lora=True,
        max_lora_rank=8,
        enable_prefix_caching=False,
    )
    found = {}
    for name, adapter in (("base", None), ("adapter", LoRARequest("adapter", 1, str(folder / "adapter")))):
        worst = 0.0
        for ids, expected in zip(document["rows"], document[name], strict=True):
            params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
            (made,) = engine.generate([{"prompt_token_ids": ids}], params, lora_request=adapter, use_tqdm=False)
            served = [entry[token].logprob for token, entry in zip(ids[1:], made.prompt_logprobs[1:], strict=True)]
            worst = max(worst, *(abs(a - b) for a, b in zip(served, expected, strict=True)))
        found[name] = worst
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
