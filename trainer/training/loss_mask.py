"""Render conversations with a chat template into token ids, and mask the loss to assistant messages.

Every answer in the loss is an example of its own at first: the ids of the prompt that the engine will be given for it,
and the ids of the answer through its stop token. An example that is a prefix of a later one of the same conversation is
joined with it: a conversation is one example where the chat template keeps earlier turns as they were, and one per
answer where it rewrites them (it strips reasoning from the history, or ends the last turn in another token). Only
answers are loss tokens; all others get the label -100. Messages of weight 0 are context.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from trainer.data.schema import Example, Message, Pair
from trainer.errors import ControlTextError, DataError, Problem, RunError
from trainer.training.chat_template import ChatTemplate, TemplateOptions
from trainer.training.template_check import refuse_endless_answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100
# Marks that stand for a control token in a text while a template renders it; Unicode sets these code points aside.
_ESCAPED = re.compile("(\ufdd0[0-9]+\ufdd1)")
_TOLERATED_DROPS = 0.01


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """One example ready for training: `labels` equal `input_ids` for loss tokens and are -100 elsewhere.

    `loss_spans` are the character ranges of `text` in the loss, in order, for display. `loss_weights` are the weights
    of the loss tokens, in order, and empty where all are 1.
    """

    line: int
    row_id: str
    text: str
    input_ids: list[int]
    labels: list[int]
    loss_spans: tuple[tuple[int, int], ...]
    loss_weights: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return len(self.input_ids)

    @property
    def loss_tokens(self) -> int:
        """The number of tokens in the loss."""
        return sum(label != IGNORE_INDEX for label in self.labels)


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """One preference pair: the same prompt with the chosen and with the rejected answer."""

    chosen: RenderedExample
    rejected: RenderedExample
    row_id: str
    weight: float = 1.0

    @property
    def line(self) -> int:
        """The pair's line in its file."""
        return self.chosen.line

    @property
    def tokens(self) -> int:
        """The number of tokens of the longer side."""
        return max(self.chosen.tokens, self.rejected.tokens)

    @property
    def loss_tokens(self) -> int:
        """The number of tokens of both answers in the loss."""
        return self.chosen.loss_tokens + self.rejected.loss_tokens


@dataclass(frozen=True, slots=True)
class RenderedRating:
    """A prompt with an answer that is good or bad, for KTO."""

    answer: RenderedExample
    is_good: bool
    row_id: str
    weight: float = 1.0

    @property
    def line(self) -> int:
        """The row's line in its file."""
        return self.answer.line

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return self.answer.tokens

    @property
    def loss_tokens(self) -> int:
        """The number of tokens of the answer."""
        return self.answer.loss_tokens


def answer_of(row: RenderedExample | RenderedPair | RenderedRating) -> RenderedExample:
    """Return the example of a rendered row: of a pair, the chosen answer."""
    if isinstance(row, RenderedPair):
        return row.chosen
    return row.answer if isinstance(row, RenderedRating) else row


class _TokenizedRow(Protocol):
    @property
    def line(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def loss_tokens(self) -> int: ...


SourceT = TypeVar("SourceT", Example, Pair)
RowT = TypeVar("RowT", bound=_TokenizedRow)


@dataclass(frozen=True)
class RenderedSet(Generic[RowT]):
    """The rendered examples of one split, the lines of rows that were too long, and of those with control tokens.

    `rows` are the examples or pairs to train on, several of a conversation where the template rewrites its turns;
    `row_count` counts the rows that they come from.
    """

    rows: tuple[RowT, ...]
    dropped_lines: tuple[int, ...]
    row_count: int = 0
    control_lines: tuple[int, ...] = ()
    dropped_ids: frozenset[str] = frozenset()

    @classmethod
    def joined(cls, sets: "Sequence[RenderedSet[RowT]]") -> "RenderedSet[RowT]":
        """Return the examples of several files as one set."""
        return cls(
            tuple(row for one in sets for row in one.rows),
            tuple(line for one in sets for line in one.dropped_lines),
            sum(one.row_count for one in sets),
            tuple(line for one in sets for line in one.control_lines),
            frozenset[str]().union(*(one.dropped_ids for one in sets)),
        )

    @property
    def loss_tokens(self) -> int:
        """The number of loss tokens in one epoch."""
        return sum(row.loss_tokens for row in self.rows)


class Renderer:
    """Render with one tokenizer and its chat template, or the one of the options.

    `stop_token_ids` are the ids at which the engine stops, `longest_context` is the model's context length in tokens.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        stop_token_ids: frozenset[int],
        longest_context: int,
        options: TemplateOptions | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.longest_context = longest_context
        self.options = options or TemplateOptions()
        self._stop_token_ids = stop_token_ids
        stops = [str(tokenizer.convert_ids_to_tokens(number)) for number in sorted(stop_token_ids)]
        self.template = ChatTemplate(tokenizer, stops, self.options)
        added = tokenizer.added_tokens_decoder.values()
        self._control_texts = sorted({*tokenizer.all_special_tokens, *(t.content for t in added if t.special)})

    @classmethod
    def load(cls, base: Path, options: TemplateOptions | None = None) -> "Renderer":
        """Load from a model directory.

        Raises `RunError` without a fast tokenizer, chat template, generation prompt or stop token.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{base} has no usable tokenizer ({error}); give the directory of a chat model.") from error
        has_template = tokenizer.chat_template is not None or (options is not None and options.template is not None)
        if not tokenizer.is_fast or not has_template:
            raise RunError(
                f"{base} has no fast tokenizer with a chat template; give a chat (instruct) model, or set "
                "chat_template in [data] of the recipe."
            )
        config = json.loads((base / "config.json").read_bytes())
        text = config.get("text_config") or config
        stops = frozenset(_stop_token_ids(base)) | {tokenizer.eos_token_id} - {None}
        if not stops:
            raise RunError(f"{base} names no eos_token_id, so answers could never stop; set it in its config.json.")
        renderer = cls(tokenizer, stops, text.get("max_position_embeddings", 1 << 30), options)
        renderer.template.check()
        refuse_endless_answers(base, tokenizer, renderer.chat_template, stops)
        return renderer

    @property
    def chat_template(self) -> str:
        """The Jinja text of the chat template."""
        return self.template.source

    @property
    def chat_template_sha256(self) -> str:
        """SHA-256 of the chat template."""
        return hashlib.sha256(self.chat_template.encode()).hexdigest()

    def render(self, example: Example) -> RenderedExample:
        """Return the one example of a conversation; raises `ValueError` with the defect of the row.

        A conversation whose earlier turns the template rewrites is refused: `render_answers` makes several of it.
        """
        rendered = self.render_answers(example)
        if len(rendered) > 1:
            raise ValueError(
                f"makes {len(rendered)} examples, because the chat template rewrites earlier turns; give the answers "
                "before the last one the weight 0"
            )
        return rendered[0]

    def render_answers(self, example: Example) -> tuple[RenderedExample, ...]:
        """Return the examples of a conversation, in order; raises `ValueError` with the defect of the row."""
        escaped = self._escaped(example)
        rendered: list[RenderedExample] = []
        for index, message in enumerate(example.messages):
            if message.in_loss:
                answer = self._answer(escaped, index, example.row_id)
                if rendered and _continues(rendered[-1], answer):
                    answer = _joined(rendered.pop(), answer)
                rendered.append(answer)
        if not rendered:
            raise ValueError("has no assistant message in the loss; give one the weight 1 or remove the row")
        return tuple(rendered)

    def render_pair(self, pair: Pair) -> RenderedPair:
        """Return ids and labels of both sides of a preference pair; raises `ValueError` as `render` does."""
        return RenderedPair(self.render(pair.preferred), self.render(pair.rejected), pair.row_id, pair.preferred.weight)

    def render_rating(self, rating: Example) -> RenderedRating:
        """Return ids and labels of a row whose last answer is labelled good or bad; raises `ValueError`."""
        assert rating.is_good is not None, "rows without a label are refused"
        last = rating.answer_index
        messages = tuple(turn if at == last else replace(turn, weight=0) for at, turn in enumerate(rating.messages))
        rendered = replace(self.render(replace(rating, messages=messages)), row_id=rating.row_id)
        return RenderedRating(rendered, rating.is_good, rating.row_id, rating.weight)

    def prompt_ids(self, example: Example) -> list[int]:
        """Return the ids of the prompt that the engine will be given for the last answer; raises `ValueError`."""
        return self._encode(self.template.prompt(self._escaped(example), example.answer_index))

    def _answer(self, example: Example, index: int, row_id: str) -> RenderedExample:
        """Return the example of one answer: the engine's prompt for it, and its tokens through the stop token."""
        prompt = self.template.prompt(example, index)
        answer = self.template.answer(example, index, prompt)
        before, whole = self._encode(prompt), self._encode(prompt + answer)
        if whole[: len(before)] != before:
            # The engine tokenizes the prompt alone, so an answer that would share a token with it is tokenized alone.
            whole = [*before, *self._encode(answer)]
            if self.tokenizer.decode(whole) != self.tokenizer.decode(self._encode(prompt + answer)):
                raise ValueError(
                    f"messages[{index}] shares a token with the prompt before it, so it cannot be masked exactly"
                )
        ids = whole[len(before) :]
        if ids[-1] not in self._stop_token_ids or any(number in self._stop_token_ids for number in ids[:-1]):
            raise ValueError(f"messages[{index}] does not end at its first stop token, so it cannot be masked exactly")
        if len(ids) == 1:
            raise ValueError(f"messages[{index}] has no tokens of its own, so there is nothing to train on")
        prompt, answer = self._unescaped(prompt), self._unescaped(answer)
        labels = [*[IGNORE_INDEX] * len(before), *ids]
        span, weight = (len(prompt), len(prompt) + len(answer)), example.weight_of(index)
        return RenderedExample(
            example.line, row_id, prompt + answer, whole, labels, (span,), () if weight == 1 else (weight,) * len(ids)
        )

    def _encode(self, text: str) -> list[int]:
        """Return the ids of a text; what is escaped in it is encoded as text, not as a control token."""
        ids = list[int]()
        for number, piece in enumerate(_ESCAPED.split(text)):
            plain = self._unescaped(piece)
            ids += self.tokenizer(plain, add_special_tokens=False, split_special_tokens=bool(number % 2))["input_ids"]
        return ids

    def _escaped(self, example: Example) -> Example:
        """Return the example with marks for the control tokens in its texts; raises `ControlTextError` by option."""
        found = [
            (index, name, control)
            for index, message in enumerate(example.messages)
            for name, text in _written(message)
            for control in self._control_texts
            if control in text
        ]
        if not found:
            return example
        if self.options.special_tokens != "escape":
            index, name, control = found[0]
            raise ControlTextError(
                f"messages[{index}].{name} contains {control!r}, which the tokenizer reads as a control token"
            )
        return replace(example, messages=tuple(self._escaped_message(message) for message in example.messages))

    def _escaped_message(self, message: Message) -> Message:
        calls = json.loads(self._escape(json.dumps(list(message.tool_calls), ensure_ascii=False)))
        thought = message.reasoning_content and self._escape(message.reasoning_content)
        return replace(
            message, content=self._escape(message.content), tool_calls=tuple(calls), reasoning_content=thought
        )

    def _escape(self, text: str) -> str:
        for number in sorted(range(len(self._control_texts)), key=lambda n: -len(self._control_texts[n])):
            text = text.replace(self._control_texts[number], f"\ufdd0{number}\ufdd1")
        return text

    def _unescaped(self, text: str) -> str:
        return _ESCAPED.sub(lambda mark: self._control_texts[int(mark[1][1:-1])], text)


def render_all(
    render: Callable[[SourceT], Sequence[RowT]],
    path: Path,
    examples: Sequence[SourceT],
    *,
    max_length: int,
    allow_drop: bool,
    drop_control_texts: bool = False,
) -> RenderedSet[RowT]:
    """Render every row of a split; raises `DataError` with every row that cannot be, or if over 1 % are left out.

    `render` gives the examples of a row. Rows with an example of more than `max_length` tokens are left out and
    counted, never truncated: a truncated answer teaches the model not to stop. So are rows with control tokens in
    their texts with `drop_control_texts`.
    """
    rows, long = list[RowT](), list[RowT]()
    problems: list[Problem] = []
    controls: list[Problem] = []
    count, dropped = 0, set[str]()
    for example in examples:
        try:
            rendered = render(example)
        except ControlTextError as error:
            dropped.add(example.row_id)
            controls.append(Problem(str(path), example.line, str(error)))
            continue
        except ValueError as error:
            problems.append(Problem(str(path), example.line, str(error)))
            continue
        longest = max(rendered, key=lambda row: row.tokens)
        if longest.tokens <= max_length:
            rows += rendered
            count += 1
        else:
            long.append(longest)
            dropped.add(example.row_id)
    most = _TOLERATED_DROPS * len(examples)
    if long and (not rows or (len(long) > most and not allow_drop)):
        problems.append(Problem(str(path), long[0].line, _too_long(long, len(examples), max_length)))
    if controls and (not rows or not drop_control_texts or (len(controls) > most and not allow_drop)):
        problems += [Problem(str(path), None, _with_controls(controls, len(examples))), *controls]
    if problems:
        raise DataError(problems)
    lines = tuple(problem.line or 0 for problem in controls)
    return RenderedSet(tuple(rows), tuple(row.line for row in long), count, lines, frozenset(dropped))


def _with_controls(controls: Sequence[Problem], total: int) -> str:
    return (
        f"{len(controls)} of {total} rows contain a control token in their text; set special_tokens in [data] to "
        '"escape" (encode them as text) or "drop" (with training.allow_drop = true for over 1 %), or edit them'
    )


def _written(message: Message) -> list[tuple[str, str]]:
    """Return the fields of a message that hold text, with the text."""
    calls = [("tool_calls", json.dumps(call, ensure_ascii=False)) for call in message.tool_calls]
    return [("content", message.content), ("reasoning_content", message.reasoning_content or ""), *calls]


def _continues(one: RenderedExample, other: RenderedExample) -> bool:
    """Return whether an example is the beginning of another one."""
    return other.input_ids[: one.tokens] == one.input_ids and other.text.startswith(one.text)


def _joined(one: RenderedExample, other: RenderedExample) -> RenderedExample:
    """Return the longer example with the loss tokens of both."""
    weights = [*_weights(one), *_weights(other)]
    return replace(
        other,
        labels=[*one.labels, *other.labels[one.tokens :]],
        loss_spans=(*one.loss_spans, *other.loss_spans),
        loss_weights=() if all(weight == 1 for weight in weights) else tuple(weights),
    )


def _weights(row: RenderedExample) -> tuple[float, ...]:
    return row.loss_weights or (1.0,) * row.loss_tokens


def _too_long(long: Sequence[_TokenizedRow], total: int, max_length: int) -> str:
    longest = max(long, key=lambda row: row.tokens)
    return (
        f"{len(long)} of {total} rows are over max_length = {max_length} tokens, the longest (line {longest.line}) has "
        f"{longest.tokens}; raise max_length, shorten them, or set allow_drop = true to leave them out"
    )


def _stop_token_ids(base: Path) -> Iterator[int]:
    """Yield the EOS token ids that the engine reads from a model directory."""
    for name in ("generation_config.json", "config.json"):
        if (base / name).is_file():
            eos = json.loads((base / name).read_bytes()).get("eos_token_id")
            yield from eos if isinstance(eos, list) else [] if eos is None else [eos]
