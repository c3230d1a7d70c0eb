"""Every prompt that is trained on is byte for byte the one that vLLM's own renderer makes of the same messages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.trainer.chat.templates import FOLDER, ROWS, TEMPLATES, marked, stops_of
from trainer.data.schema import Example, parse_row
from trainer.training.base import prepare_libraries
from trainer.training.chat_template import TemplateOptions
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample, Renderer

# The values of templates' variables beside the default: reasoning off, or on where it is off.
KWARGS: dict[str, dict[str, Any]] = {
    "qwen3": {"enable_thinking": False},
    "qwen3_5_think": {"enable_thinking": False},
    "qwen3_5_nothink": {"enable_thinking": True},
    "qwen3_6": {"enable_thinking": False},
    "nemotron_3_nano": {"enable_thinking": False},
    "glm4moe": {"enable_thinking": False},
    "gptoss": {"reasoning_effort": "low"},
    "llama3_2": {"date_string": "1 January 2026"},
}
CASES: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in TEMPLATES), *KWARGS.items()]
_IDS = [f"{name} {json.dumps(kwargs)}" if kwargs else name for name, kwargs in CASES]


def row(kind: str) -> Example:
    parsed = parse_row(1, ROWS[kind])
    assert isinstance(parsed, Example)
    return parsed


def template_of(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model with a tokenizer that knows the markers of all templates."""
    prepare_libraries()
    folder = tmp_path_factory.mktemp("marked")
    marked(AutoTokenizer.from_pretrained(base_model)).save_pretrained(folder)
    (folder / "config.json").write_bytes((base_model / "config.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def engine_prompts(folder: Path) -> Any:
    """The engine's text of `messages[:index]` by case, kind of row and index, or None where it refuses them."""
    keys, requests = [], []
    for number, (name, kwargs) in enumerate(CASES):
        for kind, fields in ROWS.items():
            for index, message in enumerate(fields["messages"]):
                if message["role"] == "assistant":
                    keys.append((number, kind, index))
                    asked = fields["messages"][:index]
                    requests.append({"template": template_of(name), "messages": asked, "kwargs": kwargs})
                    requests[-1]["tools"] = fields.get("tools", [])
    document = json.dumps({"model": str(folder), "requests": requests})
    command = [sys.executable, "-m", "tests.trainer.chat.vllm_prompts"]
    done = subprocess.run(command, input=document, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    texts = json.loads(done.stdout.splitlines()[-1])
    return {key: text if isinstance(text, str) else None for key, text in zip(keys, texts, strict=True)}


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def renderer_of(tokenizer: Any, name: str, **options: Any) -> Renderer:
    stops = frozenset(tokenizer.convert_tokens_to_ids(list(stops_of(name))))
    return Renderer(tokenizer, stops, 4096, TemplateOptions(template=template_of(name), **options))


def answers(rendered: tuple[RenderedExample, ...]) -> list[tuple[str, str]]:
    """Return each learnt answer with the text before it, in order."""
    return [(one.text[:begin], one.text[begin:end]) for one in rendered for begin, end in one.loss_spans]


def runs(rendered: tuple[RenderedExample, ...], tokenizer: Any) -> list[str]:
    """Return the decoded loss tokens of each example."""
    return [
        str(tokenizer.decode([label for label in one.labels if label != IGNORE_INDEX], skip_special_tokens=False))
        for one in rendered
    ]


@pytest.mark.parametrize("number", range(len(CASES)), ids=_IDS)
def test_each_answer_is_learnt_behind_the_engines_own_prompt(number: int, tokenizer: Any, engine_prompts: Any) -> None:
    name, kwargs = CASES[number]
    learnt = 0
    for kind, fields in ROWS.items():
        example = row(kind)
        wanted = [engine_prompts[number, kind, i] for i, message in enumerate(example.messages) if message.in_loss]
        renderer = renderer_of(tokenizer, name, kwargs=kwargs)
        try:
            rendered = renderer.render_answers(example)
        except ValueError as error:
            if None not in wanted and not is_inexpressible(str(error), kind, name):
                pytest.fail(f"{kind}: {error}")
            continue
        learnt += 1
        found = answers(rendered)
        assert [before for before, _ in found] == wanted, kind
        assert runs(rendered, tokenizer) == [
            "".join(one.text[begin:end] for begin, end in one.loss_spans) for one in rendered
        ], kind
        for (_, answer), message in zip(
            found, (m for m in fields["messages"] if m["role"] == "assistant"), strict=True
        ):
            assert_is_the_answer(answer, message, stops_of(name), name)
    assert learnt >= 3, "single, multi-turn and inline reasoning at least"


def is_inexpressible(sentence: str, kind: str, name: str) -> bool:
    """Whether a template has no words for what the answer is made of, so that no text could be learnt."""
    if "reasoning" in kind:
        return "reasoning" in sentence
    never_ended = name.startswith("deepseek_r1") and "not followed by a stop token" in sentence
    return kind.startswith("tool") and ("tool_calls are left out" in sentence or never_ended)


def assert_is_the_answer(answer: str, message: dict[str, Any], stops: tuple[str, ...], name: str) -> None:
    """The text is the answer, with its reasoning or calls, its end-of-turn, and what the template puts around them."""
    assert answer.endswith(stops)
    assert sum(answer.count(stop) for stop in stops) == 1
    for other in ("What is the weather", "And what about Rome?", "Be brief.", '"sky"'):
        assert other not in answer
    if "tool_calls" in message:
        assert "weather" in answer
        assert "Berlin" in answer
        return
    plain = message["content"].rpartition("</think>")[2].strip()
    head, _, tail = answer.rpartition(plain)
    assert tail.replace("<|END_RESPONSE|>", "").strip() in stops, (
        f"nothing but the end-of-turn follows the answer: {tail!r}"
    )
    thought = message.get("reasoning_content") or (
        "They want the sky of one city." if "<think>" in message["content"] else ""
    )
    head = head.replace(thought, "") if thought else head
    around = (
        "<think>",
        "</think>",
        "<|channel|>",
        "<|message|>",
        "final",
        "analysis",
        "<|end|>",
        "<|start|>",
        "assistant",
    )
    for mark in (*around, "to=user", "to=self", "<|eom|>", "<|channel>", "thought", "<channel|>", "<|START_RESPONSE|>"):
        head = head.replace(mark, "")
    assert not head.strip(), f"only marks of the format stand before the answer: {head!r}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_reasoning_is_trainable_with_every_template(name: str, tokenizer: Any) -> None:
    """Written by the template where it can, inline where it cannot; or dropped."""
    for kind in ("reasoning", "reasoning, then another turn"):
        dropped = renderer_of(tokenizer, name, reasoning="drop").render_answers(row(kind))
        assert all("sky of one city" not in one.text for one in dropped)
        if name.startswith("qwen3_5_nothink"):  # its default prompt ends the thought before the answer
            continue
        inline = renderer_of(tokenizer, name, reasoning="inline").render_answers(row(kind))
        learnt = [answer for _, answer in answers(inline)]
        assert "They want the sky of one city." in learnt[0]
        assert "It rains in Berlin today." in learnt[0]
