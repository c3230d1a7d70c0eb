"""The chat templates that TRL ships, each with the tokens at which its models stop, and rows of every kind."""

import re
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

# Importing TRL silences vLLM's log in every process that is started afterwards.
FOLDER = Path(str(distribution("trl").locate_file("trl"))) / "chat_templates"
TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
# The beginning of a template's name, and the stop tokens in the generation_config.json of its models.
STOPS: Mapping[str, tuple[str, ...]] = {
    "cohere": ("<|END_OF_TURN_TOKEN|>",),
    "deepseek": ("<｜end▁of▁sentence｜>",),
    "diffusion_gemma": ("<turn|>", "<|tool_response>"),
    "gemma4": ("<turn|>", "<|tool_response>"),
    "gemma": ("<end_of_turn>",),
    "glm4moe": ("<|user|>", "<|observation|>"),
    "gptoss": ("<|return|>", "<|call|>"),
    "idefics3": ("<end_of_utterance>",),
    "lfm2": ("<|im_end|>",),
    "llama": ("<|eot_id|>", "<|eom_id|>"),
    "llava_next": ("</s>",),
    "muse": ("<|eot|>",),
    "nemotron": ("<|im_end|>",),
    "phi3": ("<|end|>", "<|endoftext|>"),
    "qwen": ("<|im_end|>", "<|endoftext|>"),
    "smolvlm": ("<end_of_utterance>",),
}
_MARKERS = re.compile(
    r"<\|[^|<>{}\s]+\|>|<\|[a-z_]+>|<[a-z_]+\|>|<｜[^｜]+｜>|\[/?INST\]|</s>|<(?:start|end)_of_[a-z]+>"
)
_WORDS = re.compile(r"</?think>|</?tool_(?:call|response)>")

ASK = {"role": "user", "content": "What is the weather in Berlin?"}
AGAIN = {"role": "user", "content": "And what about Rome?"}
FIRST = {"role": "assistant", "content": "It rains in Berlin today."}
LAST = {"role": "assistant", "content": "The sun shines over Rome."}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Berlin"}'}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"sky": "grey"}', "tool_call_id": "abcdefghi", "name": "weather"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "A city."}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Look.", "parameters": PARAMETERS}}]
THOUGHT = "They want the sky of one city."
ROWS: Mapping[str, dict[str, Any]] = {
    "single": {"messages": [ASK, FIRST]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, ASK, FIRST]},
    "multi-turn": {"messages": [ASK, FIRST, AGAIN, LAST]},
    "tool call": {"messages": [ASK, CALLS], "tools": TOOLS},
    "tool result": {"messages": [ASK, CALLS, RESULT, FIRST], "tools": TOOLS},
    "tools, then another turn": {"messages": [ASK, CALLS, RESULT, FIRST, AGAIN, LAST], "tools": TOOLS},
    "reasoning": {"messages": [ASK, {**FIRST, "reasoning_content": THOUGHT}]},
    "reasoning, then another turn": {
        "messages": [ASK, {**FIRST, "reasoning_content": THOUGHT}, AGAIN, {**LAST, "reasoning_content": "Now Rome."}]
    },
    "reasoning inline": {
        "messages": [ASK, {**FIRST, "content": f"<think>\n{THOUGHT}\n</think>\n\n{FIRST['content']}"}]
    },
}


def stops_of(template: str) -> tuple[str, ...]:
    """Return the stop tokens of a template's models."""
    return next(stops for name, stops in STOPS.items() if template.startswith(name))


def marked(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Add the markers of all templates to a tokenizer, as the tokenizers of their models have them."""
    texts = [(FOLDER / f"{name}.jinja").read_text(encoding="utf-8") for name in TEMPLATES]
    special = {marker for text in texts for marker in _MARKERS.findall(text)}
    special |= {stop for stops in STOPS.values() for stop in stops} | {"<bos>", "<s>"}
    words = {word for text in texts for word in _WORDS.findall(text)}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(special)})
    tokenizer.bos_token = "<bos>"
    tokenizer.add_tokens(sorted(words - special))
    return tokenizer
