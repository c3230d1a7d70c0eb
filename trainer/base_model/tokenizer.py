"""The base model's tokenizer and chat template.

Byte-level BPE: every text can be encoded and comes back unchanged. Digits stay single, so any order number is a
sequence of familiar tokens. All the special tokens that a conversation needs come from the chat template; the
tokenizer adds none.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TURN = "<|end|>"
PAD = "<|pad|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL_TOKENS = (PAD, END_OF_TURN, *(f"<|{role}|>" for role in ROLES))

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


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_tokens: int) -> "PreTrainedTokenizerFast":
    """Learn the vocabulary (special tokens included) from `texts`; `max_tokens` is the model's context length."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
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
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        model_max_length=max_tokens,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
