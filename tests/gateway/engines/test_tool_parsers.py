"""Which parsers are chosen for which model: known answers, by the lines of their templates that matter."""

import inspect
import json
from pathlib import Path

import pytest

from gateway.engines.client import translate
from gateway.engines.tool_parsers import FAMILIES, THINKERS, Parsers, choose_parsers

TOOLS = "{%- if tools %}{{ tools }}{% endif %}"
JSON_CALL = '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
THINK = "{{- '<think>\\n' + reasoning_content + '\\n</think>' }}"
LLAMA = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
DEEPSEEK = (
    "<｜Assistant｜>{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['function']['name'] + '<｜tool▁sep｜>' }}"
)
KNOWN = {
    "SmolLM2": ("llama", "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}", None, None),
    "SmolLM3": ("smollm3", "{%- if xml_tools or tools %}" + JSON_CALL + "{% endif %}", "hermes", None),
    "Qwen2.5": ("qwen2", TOOLS + JSON_CALL, "hermes", None),
    "QwQ": ("qwen2", TOOLS + JSON_CALL + THINK, "hermes", "deepseek_r1"),
    "Qwen3": ("qwen3", TOOLS + JSON_CALL + THINK, "hermes", "qwen3"),
    "Qwen3 Instruct 2507": ("qwen3_moe", TOOLS + JSON_CALL, "hermes", None),
    "Qwen3 Coder": (
        "qwen3_moe",
        TOOLS + "<tool_call>\n<function=example_name>\n</function>\n</tool_call>",
        "qwen3_xml",
        None,
    ),
    "Hermes 3": ("llama", TOOLS + JSON_CALL, "hermes", None),
    "Llama 3.1": ("llama", "{%- set tools = custom_tools %}Environment: ipython\n" + LLAMA, "llama3_json", None),
    "Llama 4": ("llama4", TOOLS + LLAMA, "llama4_json", None),
    "Llama 4, pythonic template": ("llama4", TOOLS + "[func_name1(a=1)]", "llama4_pythonic", None),
    "Mistral 7B v0.3": ("mistral", TOOLS + "[AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral", None),
    "Magistral": ("mistral", TOOLS + "[TOOL_CALLS] [THINK]", "mistral", "mistral"),
    "Granite 3.1": ("granite", TOOLS + "respond only with <|tool_call|> followed by a JSON list", "granite", None),
    "Granite 3.2": ("granite", TOOLS + "<|tool_call|> Here is my thought process:", "granite", "granite"),
    "Granite 4": ("granitemoehybrid", TOOLS + JSON_CALL, "granite4", None),
    "DeepSeek R1 0528": ("deepseek_v3", TOOLS + DEEPSEEK + "\n```json\n" + THINK, "deepseek_v3", "deepseek_r1"),
    "DeepSeek V3.1": ("deepseek_v3", TOOLS + DEEPSEEK + "{% if thinking %}", "deepseek_v31", "deepseek_v3"),
    "DeepSeek R1 Distill": ("qwen2", DEEPSEEK + "<think>\\n", None, "deepseek_r1"),
    "gpt-oss": ("gpt_oss", TOOLS + "<|channel|>analysis", "openai", "openai_gptoss"),
    "Gemma 3": ("gemma3", "<start_of_turn>{{ message['content'] }}", None, None),
    "FunctionGemma": ("gemma3_text", TOOLS + "<start_function_call>", "functiongemma", None),
    "Gemma 4": ("gemma4", TOOLS + "<|tool_call>call:<tool_call|><|channel>", "gemma4", "gemma4"),
    "Phi-4-mini": (
        "phi3",
        "{% if 'tools' in message %}<|tool|>{{ message['tools'] }}<|/tool|>{% endif %}",
        "phi4_mini_json",
        None,
    ),
    "Phi-3": ("phi3", "<|user|>{{ message['content'] }}<|end|>", None, None),
    "Kimi K2": ("kimi_k2", TOOLS + "<|tool_calls_section_begin|>", "kimi_k2", None),
    "GLM 4.5": ("glm4_moe", TOOLS + "<tool_call>{name}<arg_key>" + THINK, "glm45", "glm45"),
    "LFM2": ("lfm2", TOOLS + "<|tool_call_start|>", "lfm2", None),
    "Olmo 3 Think": ("olmo3", TOOLS + "<function_calls>" + THINK, "olmo3", "olmo3"),
    "Jamba 1.5": ("jamba", TOOLS + "<tool_calls>", "jamba", None),
    "something new": ("newcomer", TOOLS + "call it somehow", None, None),
    "no template": ("llama", "", None, None),
}


def write_model(directory: Path, model_type: str, template: str) -> Path:
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    if template:
        (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return directory


@pytest.mark.parametrize(("model_type", "template", "tool", "reasoning"), KNOWN.values(), ids=KNOWN)
def test_known_models_get_the_parsers_that_vllm_documents(
    tmp_path: Path, model_type: str, template: str, tool: str | None, reasoning: str | None
) -> None:
    chosen = choose_parsers(write_model(tmp_path, model_type, template), ())
    assert (chosen.tool, chosen.reasoning) == (tool, reasoning)
    assert ("no tool calls" in chosen.why) == (tool is None)
    assert ("--enable-auto-tool-choice" in chosen.arguments()) == (tool is not None)


@pytest.mark.filterwarnings("ignore")  # of torch, while it is imported
def test_every_parser_of_the_table_is_one_of_the_installed_vllm() -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    families = (*FAMILIES, *THINKERS)
    tools, reasoning = ToolParserManager.list_registered(), ReasoningParserManager.list_registered()
    assert {family.tool for family in families} - {None} <= set(tools)
    assert {family.reasoning for family in families} - {None} <= set(reasoning)


def test_the_operators_own_choice_stands(tmp_path: Path) -> None:
    model = write_model(tmp_path, "qwen3", TOOLS + JSON_CALL + THINK)
    assert choose_parsers(model, ["--tool_call_parser=xlam"]).arguments() == ("--reasoning-parser", "qwen3")
    assert "--reasoning-parser" not in choose_parsers(model, ["--reasoning-parser", ""]).arguments()
    both = choose_parsers(model, ["--no-enable-auto-tool-choice", "--reasoning-parser", "glm45"])
    assert (both.arguments(), both.why) == ((), "tool calls as engine_args say; reasoning as engine_args say")


@pytest.mark.parametrize("spelling", [["--chat-template", "{}"], ["--chat-template={}"]])
def test_a_template_that_the_operator_gives_decides(tmp_path: Path, spelling: list[str]) -> None:
    model = write_model(tmp_path, "deepseek_v3", DEEPSEEK)
    assert choose_parsers(model, ()).tool is None
    given = tmp_path / "tool_chat_template.jinja"
    given.write_text(TOOLS + DEEPSEEK)
    assert choose_parsers(model, [part.format(given) for part in spelling]).tool == "deepseek_v31"


def test_templates_are_found_wherever_models_keep_them(tmp_path: Path) -> None:
    plain = write_model(tmp_path, "qwen2", "")
    named = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": TOOLS + JSON_CALL}]
    (plain / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert choose_parsers(plain, ()).tool == "hermes"
    (plain / "chat_template.jinja").write_text("{{ messages }}")
    assert choose_parsers(plain, ()).tool is None
    (plain / "chat_template.jinja").write_text(TOOLS + JSON_CALL)
    assert choose_parsers(plain, ()).tool == "hermes"


def test_mistrals_own_format_and_the_embedded_base_need_no_template(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text("{}")
    assert choose_parsers(tmp_path, ()).tool == "mistral"
    (tmp_path / "base-model.json").write_text("{}")
    chosen = choose_parsers(tmp_path, ())
    assert chosen.arguments()[-2:] == ("--tool-strict-level", "parameter")


@pytest.mark.parametrize("broken", ["", "[]", "{", "\x00"])
def test_files_that_cannot_be_read_choose_nothing(tmp_path: Path, broken: str) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(broken)
    assert choose_parsers(tmp_path, ()) == Parsers(None, None, "no tool calls: the chat template takes no tools")


@pytest.mark.filterwarnings("ignore")  # of torch, while it is imported
def test_what_vllm_says_about_a_missing_parser_is_said_in_words_for_the_application() -> None:
    from vllm.renderers import online_renderer

    said = b'{"error": {"message": "needs --enable-auto-tool-choice and --tool-call-parser to be set"}}'
    assert "--tool-call-parser to be set" in inspect.getsource(online_renderer)
    error = translate("/v1/chat/completions", 400, said)
    assert (error.status, error.code, error.param) == (400, "tools_not_supported", "tools")
    assert "--" not in str(error)
    assert "Leave out 'tools'" in str(error)
