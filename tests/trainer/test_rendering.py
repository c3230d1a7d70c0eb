import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.schema import Example, Message
from trainer.errors import DataError, RunError
from trainer.training.base import prepare_libraries
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample, Renderer, render_all

CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>assistant\n{% endif %}"
)
TRIMMING = CHATML.replace("message.content", "message.content | trim")
NEVER_STOPS = CHATML.replace("<|end|>", "")
FORGETS_OLD_ANSWERS = CHATML.replace(
    "{{ message.content }}", "{% if message.role != 'assistant' or loop.last %}{{ message.content }}{% endif %}"
)
WANTS_A_USER_FIRST = (
    "{% if messages[0].role != 'user' %}{{ raise_exception('a user must speak first') }}{% endif %}" + CHATML
)
GLUES_THE_ANSWER = CHATML.replace("<|assistant|>assistant\n", "x ").replace(
    "<|{{ message.role }}|>{{ message.role }}\n", "x "
)

CONTENT = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and "<|" not in text)
TURN = st.tuples(CONTENT, CONTENT)
OPTIONAL_TURN = st.tuples(st.sampled_from(["tool", "system"]), CONTENT) | st.none()


def example(*turns: tuple[str, str]) -> Example:
    return Example(1, tuple(Message(role, content) for role, content in turns))


@st.composite
def conversations(draw: st.DrawFn) -> Example:
    """With and without a system prompt, one to four rounds, sometimes a tool's turn in between."""
    turns = [("system", draw(CONTENT))] if draw(st.booleans()) else []
    for asked, answered in draw(st.lists(TURN, min_size=1, max_size=4)):
        turns.append(("user", asked))
        if extra := draw(OPTIONAL_TURN):
            turns.append(extra)
        turns.append(("assistant", answered))
    return example(*turns)


@pytest.fixture(scope="module")
def renderer(base_model: Path) -> Renderer:
    prepare_libraries()
    return Renderer.load(base_model)


def with_template(base_model: Path, template: str) -> Renderer:
    renderer = Renderer.load(base_model)
    renderer.tokenizer.chat_template = template
    return renderer


def learnt_texts(renderer: Renderer, row: RenderedExample) -> list[str]:
    """The decoded runs of learnt tokens."""
    runs: list[list[int]] = []
    before = IGNORE_INDEX
    for label in row.labels:
        if label != IGNORE_INDEX:
            if before == IGNORE_INDEX:
                runs.append([])
            runs[-1].append(label)
        before = label
    return [str(renderer.tokenizer.decode(run)) for run in runs]


def answers(row: Example) -> Sequence[str]:
    return [message.content for message in row.messages if message.role == "assistant"]


@settings(max_examples=150, deadline=None)
@given(conversations())
def test_exactly_the_answers_and_their_stop_tokens_are_learnt(renderer: Renderer, row: Example) -> None:
    rendered = renderer.render(row)
    assert learnt_texts(renderer, rendered) == [f"{answer}<|end|>" for answer in answers(row)]
    assert [rendered.text[begin:end] for begin, end in rendered.loss_spans] == [
        f"{answer}<|end|>" for answer in answers(row)
    ]


@settings(max_examples=60, deadline=None)
@given(conversations())
def test_ids_are_those_of_the_chat_template_and_labels_are_ids_or_ignored(renderer: Renderer, row: Example) -> None:
    rendered = renderer.render(row)
    whole = renderer.tokenizer.apply_chat_template(row.as_dicts(), tokenize=True, return_dict=True)["input_ids"]
    assert rendered.input_ids == whole[: rendered.tokens]
    assert renderer.tokenizer.decode(whole[rendered.tokens :]).strip() == "", "it ends at the last stop token"
    assert all(label in (IGNORE_INDEX, token) for label, token in zip(rendered.labels, rendered.input_ids, strict=True))


@settings(max_examples=60, deadline=None)
@given(conversations())
def test_what_comes_before_an_answer_is_what_the_engine_will_be_given(renderer: Renderer, row: Example) -> None:
    rendered = renderer.render(row)
    prompt = renderer.tokenizer.apply_chat_template(
        row.as_dicts()[:-1], tokenize=True, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    last = max(i for i, label in enumerate(rendered.labels[:-1]) if label == IGNORE_INDEX or i < len(prompt))
    assert rendered.input_ids[: len(prompt)] == prompt
    assert rendered.labels[len(prompt) - 1] == IGNORE_INDEX
    assert last == len(prompt) - 1


@settings(max_examples=60, deadline=None)
@given(conversations())
def test_another_template_gets_the_same_treatment(base_model: Path, row: Example) -> None:
    renderer = with_template(base_model, CHATML)
    assert learnt_texts(renderer, renderer.render(row)) == [f"{answer}<|end|>" for answer in answers(row)]


def test_a_template_that_trims_learns_the_trimmed_answer(base_model: Path) -> None:
    renderer = with_template(base_model, TRIMMING)
    row = renderer.render(example(("user", " a "), ("assistant", "\n b ")))
    assert learnt_texts(renderer, row) == ["b<|end|>"]


@pytest.mark.parametrize(
    ("template", "row", "said"),
    [
        (NEVER_STOPS, [("user", "a"), ("assistant", "b")], "messages[1] is not followed by a stop token"),
        (WANTS_A_USER_FIRST, [("system", "s"), ("user", "a"), ("assistant", "b")], "a user must speak first"),
    ],
)
def test_what_cannot_be_masked_exactly_is_refused(
    base_model: Path, template: str, row: list[tuple[str, str]], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        with_template(base_model, template).render(example(*row))


def test_a_conversation_whose_earlier_turns_are_rewritten_is_one_example_per_answer(base_model: Path) -> None:
    renderer = with_template(base_model, FORGETS_OLD_ANSWERS)
    row = example(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    first, last = renderer.render_answers(row)
    assert [learnt_texts(renderer, one) for one in (first, last)] == [["b<|end|>"], ["d<|end|>"]]
    assert last.text == (
        "<|user|>user\na<|end|>\n<|assistant|>assistant\n<|end|>\n<|user|>user\nc<|end|>\n"
        "<|assistant|>assistant\nd<|end|>"
    )
    with pytest.raises(ValueError, match="makes 2 examples, because the chat template rewrites earlier turns"):
        renderer.render(row)


def test_an_answer_that_would_share_a_token_with_its_prompt_is_tokenized_behind_it(base_model: Path) -> None:
    renderer = with_template(base_model, GLUES_THE_ANSWER)
    row = renderer.render(example(("user", "a"), ("assistant", "the")))
    prompt = renderer.tokenizer("x a<|end|>\nx ", add_special_tokens=False)["input_ids"]
    assert row.input_ids[: len(prompt)] == prompt
    assert set(row.labels[: len(prompt)]) == {IGNORE_INDEX}
    assert learnt_texts(renderer, row) == ["the<|end|>"]


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_control_tokens_in_the_text_are_refused(renderer: Renderer, role: str) -> None:
    turns = {"user": "a", "assistant": "b", role: "see <|end|> here"}
    with pytest.raises(ValueError, match=r"content contains '<\|end\|>', which the tokenizer reads as a control token"):
        renderer.render(example(*turns.items()))


def rows(count: int, answer: str = "b") -> list[Example]:
    return [Example(line, (Message("user", "a"), Message("assistant", answer))) for line in range(1, count + 1)]


def test_problems_of_all_rows_are_told_with_their_lines(renderer: Renderer) -> None:
    bad = [Example(line, (Message("user", "<|pad|>"), Message("assistant", "b"))) for line in (5, 7)]
    with pytest.raises(DataError) as caught:
        render_all(renderer.render_answers, Path("t.jsonl"), [*rows(3), *bad], max_length=50, allow_drop=False)
    assert [problem.line for problem in caught.value.problems] == [None, 5, 7]
    assert "2 of 5 rows contain a control token in their text; set special_tokens in [data]" in str(caught.value)


def test_overlong_rows_are_left_out_whole_and_counted(renderer: Renderer) -> None:
    long = Example(200, (Message("user", "a"), Message("assistant", "b " * 60)))
    rendered = render_all(renderer.render_answers, Path("t.jsonl"), [*rows(199), long], max_length=50, allow_drop=False)
    assert (len(rendered.rows), rendered.dropped_lines) == (199, (200,))


def test_many_overlong_rows_are_an_error_unless_allowed(renderer: Renderer) -> None:
    long = Example(9, (Message("user", "a"), Message("assistant", "b " * 60)))
    with pytest.raises(
        DataError, match=r"t.jsonl:9: 1 of 9 rows are over max_length = 50 tokens, the longest \(line 9\)"
    ):
        render_all(renderer.render_answers, Path("t.jsonl"), [*rows(8), long], max_length=50, allow_drop=False)
    assert render_all(
        renderer.render_answers, Path("t.jsonl"), [*rows(8), long], max_length=50, allow_drop=True
    ).dropped_lines == (9,)


def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="has no usable tokenizer"):
        Renderer.load(tmp_path)
