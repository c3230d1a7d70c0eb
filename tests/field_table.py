"""Every field of every inference API with every odd value: what `make fuzz` and the tests of the mock engine send."""

from collections.abc import Iterator

import orjson

_SAMPLING = (
    *("frequency_penalty", "ignore_eos", "include_stop_str_in_output", "logit_bias", "max_tokens", "min_p", "n"),
    *("presence_penalty", "priority", "repetition_penalty", "seed", "skip_special_tokens", "stop", "stop_token_ids"),
    *("structured_outputs", "temperature", "top_k", "top_logprobs", "top_p", "vllm_xargs", "watermarking"),
)
_BOTH_COMPLETIONS = (
    *_SAMPLING,
    *("add_special_tokens", "allowed_token_ids", "bad_words", "best_of", "echo", "length_penalty", "logprob_token_ids"),
    *("logprobs", "min_tokens", "prompt_logprobs", "repetition_detection", "response_format", "return_token_ids"),
    *("return_tokens_as_token_ids", "spaces_between_special_tokens", "stream_interval", "thinking_token_budget"),
    *("truncate_prompt_tokens", "truncation_side", "use_beam_search", "routed_experts_prompt_start"),
)
_COMMON = (
    *("cache_salt", "chat_template_kwargs", "ec_transfer_params", "kv_transfer_params", "metadata", "model", "stream"),
    *("mm_processor_kwargs", "request_id", "session_id", "stream_options", "user", "data_parallel_rank"),
)
_CHAT = (
    *("add_generation_prompt", "chat_template", "continue_final_message", "documents", "include_reasoning"),
    *("max_completion_tokens", "media_io_kwargs", "messages", "parallel_tool_calls", "reasoning_effort", "tool_choice"),
    *("tools", "return_prompt_text"),
)
FIELDS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": (*_BOTH_COMPLETIONS, *_COMMON, *_CHAT),
    "/v1/completions": (*_BOTH_COMPLETIONS, *_COMMON, "prompt", "prompt_embeds", "suffix"),
    "/v1/responses": (
        *_SAMPLING,
        *_COMMON,
        *(
            "background",
            "include",
            "input",
            "instructions",
            "max_output_tokens",
            "max_tool_calls",
            "previous_response_id",
        ),
        *("prompt", "prompt_cache_key", "reasoning", "service_tier", "store", "text", "tool_choice", "tools"),
        *("truncation", "include_reasoning", "enable_response_messages", "parallel_tool_calls"),
    ),
    "/v1/messages": (
        *_COMMON,
        *("max_tokens", "messages", "output_config", "stop_sequences", "system", "temperature", "thinking"),
        *("tool_choice", "tools", "top_k", "top_p", "vllm_xargs", "watermarking"),
    ),
    "/v1/messages/count_tokens": ("model", "messages", "output_config", "system", "thinking", "tool_choice", "tools"),
    "/v1/embeddings": ("model", "input", "dimensions", "encoding_format", "truncate_prompt_tokens", "priority", "user"),
    "/tokenize": ("model", "prompt", "messages", "add_special_tokens", "return_token_strs", "tools", "chat_template"),
    "/detokenize": ("model", "tokens"),
}
BODIES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "hi", "max_tokens": 2},
    "/v1/responses": {"input": "hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/embeddings": {"input": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1, 2]},
}
VALUES: dict[str, bytes] = {
    **{word: word.encode() for word in ("null", "true", "false", "0", "-1", "1", "1.5", "16384.0", "1e308", "-1e308")},
    **{f"2^{power}": str(2**power).encode() for power in (31, 32, 63, 64, 70)},
    "2^63-1": str(2**63 - 1).encode(),
    "empty text": b'""',
    "text": b'"text"',
    "a number as text": b'"16384"',
    "NUL": b'"\\u0000"',
    "a lone surrogate": b'"\\ud800"',
    "long text": b'"' + b"long " * 20_000 + b'"',
    "empty list": b"[]",
    "a list of text": b'["a"]',
    "a list of numbers": b"[1,2.5,-3]",
    "a list of null": b"[null]",
    "empty object": b"{}",
    "an object": b'{"a":1,"type":"x","role":"user","content":"hi"}',
    "a list of it": b'[{"a":1,"type":"x","role":"user","content":"hi"}]',
    "200 levels": b'{"a":' * 200 + b"1" + b"}" * 200,
    "900 levels": b"[" * 900 + b"]" * 900,
}


def combinations() -> Iterator[tuple[str, str, str, bytes]]:
    """Path, field, the value's name, and the whole body, in which nothing else is odd."""
    for path, fields in FIELDS.items():
        for field in fields:
            rest = {"model": "base"} | BODIES[path]
            rest.pop(field, None)
            head = orjson.dumps(rest)[:-1] + (b"," if rest else b"") + orjson.dumps(field) + b":"
            for name, value in VALUES.items():
                yield path, field, name, head + value + b"}"
