"""Masks under chat templates of other families: answers and their stop tokens are learnt, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from trainer.data.schema import Example, Message
from trainer.training.base import prepare_libraries
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample, Renderer

MARKERS = ["<s>", "</s>", "[INST]", "[/INST]", "<|start|>", "<|head|>", "<|eot|>", "<|im_start|>", "<|im_end|>"]
CALLS = "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
CHATML = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + CALLS + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "<s>{% if tools %}<|start|>system<|head|>\n\n{{ tools | tojson }}<|eot|>{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}<|head|>\n\n{{ m.content | trim }}" + CALLS + "<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|head|>\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% set space = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set space.system = m.content + '\n\n' %}"
    "{% elif m.role == 'assistant' %}{{ m.content }}" + CALLS + "</s>"
    "{% else %}[INST]{{ space.system }}{{ m.content }}[/INST]{% set space.system = '' %}{% endif %}{% endfor %}"
)
STRIPPING = CHATML.replace("{{ m.content }}", "{{ m.content.strip() }}")
FAMILIES: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "ChatML": (CHATML, "<|im_end|>", str),
    "Llama": (LLAMA, "<|eot|>", str.strip),
    "Mistral": (MISTRAL, "</s>", str),
    "stripping": (STRIPPING, "<|im_end|>", str.strip),
}
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "track", "arguments": '{"order": 7}'}}

CONTENT = st.text(min_size=1, max_size=30).filter(lambda t: t.strip() and not any(c in t for c in "<[|"))


@st.composite
def conversations(draw: st.DrawFn) -> Example:
    """With and without system and tools, several rounds, calls with results, answers of weight 0; never nothing."""
    tools = (TOOL,) if draw(st.booleans()) else ()
    turns = [Message("system", draw(CONTENT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Message("user", draw(CONTENT)))
        if tools and draw(st.booleans()):
            turns += [Message("assistant", "", tool_calls=(CALL,)), Message("tool", draw(CONTENT), tool_call_id="c1")]
        turns.append(Message("assistant", draw(CONTENT), weight=draw(st.integers(0, 1))))
    turns[-1] = Message("assistant", draw(CONTENT))
    return Example(1, tuple(turns), tools)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, base_model: Path) -> tuple[Renderer, str, Callable[[str], str]]:
    prepare_libraries()
    template, stop, shown = FAMILIES[request.param]
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    tokenizer.chat_template = template
    return Renderer(tokenizer, frozenset({tokenizer.convert_tokens_to_ids(stop)}), 2048), stop, shown


def learnt(renderer: Renderer, row: RenderedExample) -> list[str]:
    runs: list[list[int]] = [[]]
    for label in row.labels:
        if label == IGNORE_INDEX:
            runs.append([])
        else:
            runs[-1].append(label)
    return [str(renderer.tokenizer.decode(run)) for run in runs if run]


def expected(example: Example, stop: str, shown: Callable[[str], str]) -> list[str]:
    call = json.dumps({"arguments": {"order": 7}, "name": "track"})  # in the order of keys that the engine gives them
    return [
        f"{call if message.tool_calls else shown(message.content)}{stop}"
        for message in example.messages
        if message.in_loss
    ]


@settings(max_examples=40, deadline=None)
@given(conversations())
def test_exactly_the_weighted_answers_with_their_stop_tokens_are_learnt(
    family: tuple[Renderer, str, Callable[[str], str]], example: Example
) -> None:
    renderer, stop, shown = family
    row = renderer.render(example)
    assert learnt(renderer, row) == expected(example, stop, shown)
    assert row.loss_tokens > 0
    stops = [label for label in row.labels if label in renderer.tokenizer.convert_tokens_to_ids([stop])]
    assert len(stops) == sum(message.in_loss for message in example.messages)


def test_nothing_to_learn_is_an_error(family: tuple[Renderer, str, Callable[[str], str]]) -> None:
    with pytest.raises(ValueError, match="has no assistant message in the loss"):
        family[0].render(Example(1, (Message("user", "a"), Message("assistant", "b", weight=0))))


def test_control_tokens_in_the_arguments_of_a_call_are_refused(
    family: tuple[Renderer, str, Callable[[str], str]],
) -> None:
    call = {**CALL, "function": {"name": "track", "arguments": json.dumps({"order": family[1]})}}
    turns = (Message("user", "a"), Message("assistant", "", tool_calls=(call,)))
    with pytest.raises(ValueError, match=r"messages\[1\].tool_calls contains"):
        family[0].render(Example(1, turns, (TOOL,)))
