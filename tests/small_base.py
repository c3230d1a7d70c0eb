"""The base model of the trainer's tests: a Llama of two million parameters with a small vocabulary, made in seconds.

SmolLM2 takes a minute for what these tests do in a second, most of it for its 49,152 words. It learns the support
triage example's rows for a moment, so that its loss depends on what it reads. Everything that proves the product from
end to end runs on the embedded base instead. The directory is kept in `var/` under a hash of this file and of its text.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

TEXT = ROOT / "examples" / "support-triage" / "train.jsonl"
END_OF_TURN, PAD = "<|end|>", "<|pad|>"
SPECIAL_TOKENS = (PAD, END_OF_TURN, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
VOCABULARY, CONTEXT, ROW_TOKENS, ROWS_PER_STEP, PEAK_LEARNING_RATE = 2048, 2048, 256, 8, 4e-3

# Each turn is opened by its role and closed by itself, so a conversation's text is a prefix of every longer one.
# `developer` is today's name for system; tool calls without content show as JSON; any other role speaks as the user.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message['role'] in ['system', 'developer'] -%}<|system|>
    {%- elif message['role'] == 'assistant' -%}<|assistant|>
    {%- elif message['role'] in ['tool', 'function'] -%}<|tool|>
    {%- else -%}<|user|>
    {%- endif -%}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] or [] -%}{{- part['text'] or '' -}}{%- endfor -%}
    {%- endif -%}
    {%- for call in message['tool_calls'] or [] -%}{{- call['function'] | tojson -}}{%- endfor -%}
    <|end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""


def small_base_model() -> Path:
    """Return the small base's directory, made on first use."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + TEXT.read_bytes()).hexdigest()
    out = ROOT / "var" / f"small-base-{recipe[:12]}"
    out.parent.mkdir(exist_ok=True)
    with (out.parent / ".small-base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.is_dir():
            for stale in out.parent.glob("small-base-*"):
                shutil.rmtree(stale)
            with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
                made = Path(scratch) / "model"
                _make(made)
                made.rename(out)
    return out


def _make(out: Path) -> None:
    from transformers import GenerationConfig

    rows = [json.loads(line)["messages"] for line in TEXT.read_text(encoding="utf-8").splitlines()]
    tokenizer = _tokenizer([message["content"] for row in rows for message in row])
    texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
    stream = [token for ids in tokenizer(texts)["input_ids"] for token in ids]
    with _one_thread():
        model = _trained(stream, tokenizer.eos_token_id, tokenizer.pad_token_id)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Two threads that spin while they wait take many times as long once something else wants a core."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _trained(stream: list[int], eos: int, pad: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    rows = torch.tensor(stream[: len(stream) // ROW_TOKENS * ROW_TOKENS]).view(-1, ROW_TOKENS)
    rows = rows[torch.randperm(len(rows))]
    batches = [rows[start : start + ROWS_PER_STEP] for start in range(0, len(rows), ROWS_PER_STEP)]
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = PEAK_LEARNING_RATE * min(1.0, (step + 1) / 5) * (1 - step / len(batches))
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.to(torch.bfloat16)
