"""Tool and reasoning parsers: choose vLLM's parsers for a base model by its family and chat template.

A model calls tools in the format that its chat template teaches, so the template decides first and the family where
templates look alike. A template that takes no tools gets no parser: the model would never see them. The families are
taken from vLLM's pages features/tool_calling and features/reasoning_outputs or, if missing there, from the parser's
module in vllm/tool_parsers. A test compares every name here with the installed vLLM's registries.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EMBEDDED_MARK = "base-model.json"
_TAKES_TOOLS = re.compile(r"{[%{][^{}]*\b\w*tools\b")
_TOOL_OPTIONS = frozenset({"--tool-call-parser", "--enable-auto-tool-choice", "--no-enable-auto-tool-choice"})
_REASONING_OPTION, _TEMPLATE_OPTION = "--reasoning-parser", "--chat-template"


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: its pattern `template` occurs in the chat template, its pattern `kind` matches `model_type`.

    `reasoning` applies where the pattern `thinks` occurs in the template as well.
    """

    name: str
    template: str
    tool: str | None
    reasoning: str | None = None
    thinks: str = "<think>"
    kind: str = ".*"


# The first match is used.
FAMILIES = (
    Family("gpt-oss", "", "openai", "openai_gptoss", thinks="", kind="gpt_oss"),
    Family("Mistral", r"\[TOOL_CALLS\]|\[AVAILABLE_TOOLS\]", "mistral", "mistral", thinks=r"\[THINK\]"),
    Family("Kimi K2", r"<\|tool_calls_section_begin\|>", "kimi_k2", "kimi_k2"),
    Family("DeepSeek V3 or R1", r"(?s)<｜tool▁calls▁begin｜>.*```json", "deepseek_v3", "deepseek_r1"),
    Family("DeepSeek V3.1", "<｜tool▁calls▁begin｜>", "deepseek_v31", "deepseek_v3", thinks=r"\bthinking\b"),
    Family("GLM 4", "<arg_key>", "glm45", "glm45", kind="glm4.*"),
    Family("MiniMax M2", "<minimax:tool_call>", "minimax_m2", "minimax_m2_append_think"),
    Family("Seed-OSS", "<seed:tool_call>", "seed_oss", "seed_oss", thinks="<seed:think>"),
    Family("LongCat", "<longcat_tool_call>", "longcat"),
    Family("LFM2", r"<\|tool_call_start\|>", "lfm2"),
    Family("FunctionGemma", "<start_function_call>", "functiongemma"),
    Family("Gemma 4", r"<\|tool_call>", "gemma4", "gemma4", thinks=r"<\|channel>", kind="gemma4.*"),
    Family("Olmo 3", "<function_calls>", "olmo3", "olmo3", kind="olmo3"),
    Family("Apertus", r"<\|tools_prefix\|>", "apertus", kind="apertus"),
    Family("InternLM 2.5", r"<\|plugin\|>", "internlm", kind="internlm2"),
    Family("Jamba", "<tool_calls>", "jamba", kind="jamba"),
    Family("Hunyuan A13B", "<tool_calls>", "hunyuan_a13b", "hunyuan_a13b", kind="hunyuan_v1_moe"),
    Family("ERNIE 4.5", "<tool_call>", "ernie45", "ernie45", kind="ernie4_5.*"),
    Family("Granite 4", "</tool_call>", "granite4", kind="granite.*"),
    Family("Granite 3", "", "granite", "granite", thinks="Here is my thought process", kind="granite.*"),
    Family("Granite 20B function calling", "", "granite-20b-fc", kind="gpt_bigcode"),
    Family("Phi-4-mini", r"<\|tool\|>", "phi4_mini_json", kind="phi3"),
    Family("Llama 4", 'function name, "parameters"', "llama4_json", kind="llama4.*"),
    Family("Llama 4", "", "llama4_pythonic", kind="llama4.*"),
    Family("Qwen3 Coder and later", "(?s)<tool_call>.*<function=", "qwen3_xml", "qwen3", kind="qwen3.*"),
    Family("Qwen3", "</tool_call>", "hermes", "qwen3", kind="qwen3.*"),
    Family("QwQ", "(?s)</tool_call>.*<think>", "hermes", "deepseek_r1", kind="qwen2"),
    Family("Hermes or Qwen2.5", r'(?s)</tool_call>.*"arguments"|"arguments".*</tool_call>', "hermes"),
    Family("Llama 3", r'Environment: ipython|<\|python_tag\|>|function name, "parameters"', "llama3_json"),
)
# Reasoning models whose templates take no tools.
THINKERS = (Family("DeepSeek R1 and its distillates", "<｜Assistant｜>", None, "deepseek_r1"),)


@dataclass(frozen=True, slots=True)
class Parsers:
    """The chosen parsers, and the reason in a sentence for the operator (`why`)."""

    tool: str | None
    reasoning: str | None
    why: str
    is_strict: bool = False

    def arguments(self) -> tuple[str, ...]:
        """Return vLLM's command-line arguments for the parsers."""
        tool = () if self.tool is None else ("--enable-auto-tool-choice", "--tool-call-parser", self.tool)
        strict = ("--tool-strict-level", "parameter") if self.is_strict else ()
        reasoning = () if self.reasoning is None else (_REASONING_OPTION, self.reasoning)
        return (*tool, *strict, *reasoning)


def choose_parsers(base_dir: Path, extra_args: Sequence[str]) -> Parsers:
    """Choose the parsers for the base in `base_dir`; options that are in `extra_args` are left to the operator."""
    options = _options(extra_args)
    chosen = _of_base(base_dir, options.get(_TEMPLATE_OPTION))
    reasons = []
    tool, reasoning, is_strict = chosen.tool, chosen.reasoning, chosen.is_strict
    if options.keys() & _TOOL_OPTIONS:
        tool, is_strict = None, False
        reasons.append("tool calls as engine_args say")
    if _REASONING_OPTION in options:
        reasoning = None
        reasons.append("reasoning as engine_args say")
    is_ours = tool is not None or reasoning is not None
    if not reasons or is_ours:
        reasons.append(chosen.why)
    return Parsers(tool, reasoning, "; ".join(reasons), is_strict)


def _of_base(base_dir: Path, template_file: str | None) -> Parsers:
    if (base_dir / EMBEDDED_MARK).is_file():
        return Parsers("hermes", None, "tool calls: parser 'hermes' with strict arguments (the embedded base)", True)
    kind = str(_read_json(base_dir / "config.json").get("model_type", ""))
    template = _template(base_dir, template_file)
    takes_tools = bool(_TAKES_TOOLS.search(template))
    if not template and (base_dir / "tekken.json").is_file():
        return Parsers("mistral", None, "tool calls: parser 'mistral' (Mistral's own tokenizer format)")
    for family in FAMILIES if takes_tools else THINKERS:
        if re.fullmatch(family.kind, kind) and re.search(family.template, template):
            return _of_family(family, template)
    if takes_tools:
        why = (
            f"no tool calls: no parser is known for the tool-call format of this model ({kind or 'of no type'}); "
            "set one in engine_args (--enable-auto-tool-choice --tool-call-parser NAME)"
        )
    else:
        why = "no tool calls: the chat template takes no tools"
    return Parsers(None, None, why)


def _of_family(family: Family, template: str) -> Parsers:
    reasoning = family.reasoning if re.search(family.thinks, template) else None
    tool = "no tool calls: the chat template takes no tools" if family.tool is None else f"tool calls: '{family.tool}'"
    thought = "" if reasoning is None else f", reasoning: '{reasoning}'"
    return Parsers(family.tool, reasoning, f"{tool}{thought} ({family.name}, by its chat template)")


def _options(extra_args: Sequence[str]) -> dict[str, str]:
    """Return the value of each option in vLLM's spelling."""
    options = {}
    for place, argument in enumerate(extra_args):
        name, has_value, value = argument.partition("=")
        if name.startswith("--"):
            after = extra_args[place + 1] if place + 1 < len(extra_args) else ""
            options[name.replace("_", "-")] = value if has_value else after
    return options


def _template(base_dir: Path, template_file: str | None) -> str:
    """Return the chat template for requests with tools; empty when there is none."""
    if template_file and Path(template_file).is_file():
        return _read(Path(template_file))
    named = base_dir / "additional_chat_templates" / "tool_use.jinja"
    for file in (named, base_dir / "chat_template.jinja"):
        if file.is_file():
            return _read(file)
    for file in (base_dir / "chat_template.json", base_dir / "tokenizer_config.json"):
        found = _read_json(file).get("chat_template")
        if isinstance(found, list):
            by_name = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = by_name.get("tool_use") or by_name.get("default")
        if isinstance(found, str):
            return found
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read(path))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
