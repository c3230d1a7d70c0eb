"""Render conversations with the base's chat template into token ids, and mask the loss to assistant messages.

For each assistant message in the loss, the text before it (with the generation prompt, exactly as the engine gets it)
must be a prefix of the text with it, and the ids of that prefix a prefix of all ids. The tokens from there to the stop
token, inclusive, are loss tokens; all others get the label -100. A row for which this does not hold is refused: a mask
that is silently shifted trains on the wrong tokens. Messages of weight 0 are context. Tools and tool calls reach the
template in the form in which vLLM passes them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from trainer.data.schema import Example, Message, Pair
from trainer.errors import DataError, Problem, RunError
from trainer.training.template_check import refuse_unusable_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100
_TOLERATED_DROPS = 0.01


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """One example ready for training: `labels` equal `input_ids` for loss tokens and are -100 elsewhere.

    `loss_spans` are the character ranges of `text` in the loss, in order, for display.
    """

    line: int
    row_id: str
    text: str
    input_ids: list[int]
    labels: list[int]
    loss_spans: tuple[tuple[int, int], ...]

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


class _Row(Protocol):
    @property
    def line(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def loss_tokens(self) -> int: ...


SourceT = TypeVar("SourceT", Example, Pair)
RowT = TypeVar("RowT", bound=_Row)


@dataclass(frozen=True)
class RenderedSet(Generic[RowT]):
    """The rendered rows of one split, and the lines of rows that were too long."""

    rows: tuple[RowT, ...]
    dropped_lines: tuple[int, ...]

    @property
    def loss_tokens(self) -> int:
        """The number of loss tokens in one epoch."""
        return sum(row.loss_tokens for row in self.rows)


class Renderer:
    """Render with one tokenizer and its chat template.

    `stop_token_ids` are the ids at which the engine stops, `longest_context` is the model's context length in tokens.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", stop_token_ids: frozenset[int], longest_context: int
    ) -> None:
        self.tokenizer = tokenizer
        self.longest_context = longest_context
        self.chat_template: str = tokenizer.get_chat_template()
        self._stop_token_ids = stop_token_ids
        added = tokenizer.added_tokens_decoder.values()
        self._control_texts = sorted({*tokenizer.all_special_tokens, *(t.content for t in added if t.special)})

    @classmethod
    def load(cls, base: Path) -> "Renderer":
        """Load from a model directory; raises `RunError` without a fast tokenizer, chat template or stop token."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{base} has no usable tokenizer ({error}); give the directory of a chat model.") from error
        if not tokenizer.is_fast or tokenizer.chat_template is None:
            raise RunError(f"{base} has no fast tokenizer with a chat template; give a chat (instruct) model.")
        config = json.loads((base / "config.json").read_bytes())
        stops = frozenset(_stop_token_ids(base)) | {tokenizer.eos_token_id} - {None}
        if not stops:
            raise RunError(f"{base} names no eos_token_id, so answers could never stop; set it in its config.json.")
        refuse_unusable_template(base, tokenizer, stops)
        return cls(tokenizer, stops, config.get("max_position_embeddings", 1 << 30))

    @property
    def chat_template_sha256(self) -> str:
        """SHA-256 of the chat template."""
        return hashlib.sha256(self.chat_template.encode()).hexdigest()

    def render(self, example: Example) -> RenderedExample:
        """Return ids and labels of one conversation; raises `ValueError` with the defect of the row."""
        self._refuse_control_texts(example)
        messages = [_engine_message(message) for message in example.messages]
        tools = [_engine_tool(tool) for tool in example.tools] or None
        text = self._text(messages, tools)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(encoding["input_ids"]), list(encoding["offset_mapping"])
        whole = self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=True)
        if ids != list(whole["input_ids"]):
            raise ValueError("has other tokens as a whole than piece by piece; the chat template itself adds tokens")
        labels, spans = [IGNORE_INDEX] * len(ids), []
        for index, message in enumerate(example.messages):
            if message.in_loss:
                prompt = self._text(messages[:index], tools, add_generation_prompt=True)
                through = self._text(messages[: index + 1], tools)
                first, stop = self._answer(index, prompt, through, text, ids, offsets)
                labels[first : stop + 1] = ids[first : stop + 1]
                spans.append((offsets[first][0], offsets[stop][1]))
                if message.reasoning_content and message.reasoning_content.strip() not in text[len(prompt) :]:
                    raise ValueError(
                        f"messages[{index}].reasoning_content is left out by the base model's chat template; write it "
                        "into content the way the base writes it, or remove it"
                    )
        if not spans:
            raise ValueError("has no assistant message in the loss; give one the weight 1 or remove the row")
        return RenderedExample(example.line, example.row_id, text, ids, labels, tuple(spans))

    def render_pair(self, pair: Pair) -> RenderedPair:
        """Return ids and labels of both sides of a preference pair; raises `ValueError` as `render` does."""
        return RenderedPair(self.render(pair.preferred), self.render(pair.rejected), pair.row_id)

    def _answer(
        self, index: int, prompt: str, through: str, text: str, ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[int, int]:
        """Return the indexes of the first loss token of message `index` and of its stop token."""
        if not through.startswith(prompt) or not text.startswith(through):
            raise ValueError(f"messages[{index}] changes how the chat template renders the messages before it")
        prompt_ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        first = len(prompt_ids)
        if ids[:first] != prompt_ids or offsets[first][0] < len(prompt):
            raise ValueError(
                f"messages[{index}] shares a token with the prompt before it, so it cannot be masked exactly"
            )
        stop = next((i for i in range(first, len(ids)) if ids[i] in self._stop_token_ids), None)
        if stop is None or offsets[stop][1] > len(through):
            raise ValueError(
                f"messages[{index}] is not followed by a stop token, so the model would never learn to stop"
            )
        if stop == first:
            raise ValueError(f"messages[{index}] has no tokens of its own, so there is nothing to train on")
        return first, stop

    def _text(self, messages: Sequence[dict[str, Any]], tools: list[dict[str, Any]] | None, **options: Any) -> str:
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False, **options))
        except (TemplateError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"is refused by the base model's chat template: {error}") from error

    def _refuse_control_texts(self, example: Example) -> None:
        for index, message in enumerate(example.messages):
            written = [("content", message.content)] + [("tool_calls", json.dumps(c)) for c in message.tool_calls]
            for field, text in written:
                if found := next((control for control in self._control_texts if control in text), None):
                    raise ValueError(
                        f"messages[{index}].{field} contains {found!r}, which the tokenizer reads as a control token"
                    )


def render_all(
    render: Callable[[SourceT], RowT], path: Path, examples: Sequence[SourceT], *, max_length: int, allow_drop: bool
) -> RenderedSet[RowT]:
    """Render every row of a split; raises `DataError` with every row that cannot be, or if over 1 % are too long.

    `render` is `Renderer.render` or `Renderer.render_pair`. Rows longer than `max_length` tokens are left out and
    counted, never truncated: a truncated answer teaches the model not to stop.
    """
    rows, long, problems = list[RowT](), list[RowT](), list[Problem]()
    for example in examples:
        try:
            row = render(example)
        except ValueError as error:
            problems.append(Problem(str(path), example.line, str(error)))
            continue
        (rows if row.tokens <= max_length else long).append(row)
    if long and (not rows or (len(long) > _TOLERATED_DROPS * len(examples) and not allow_drop)):
        problems.append(Problem(str(path), long[0].line, _too_long(long, len(examples), max_length)))
    if problems:
        raise DataError(problems)
    return RenderedSet(tuple(rows), tuple(row.line for row in long))


def _engine_message(message: Message) -> dict[str, Any]:
    """Return the message as vLLM passes it to the template: with these keys of a call in this order, and its arguments
    as an object, not a string of JSON.
    """
    turn = message.as_dict()
    if message.reasoning_content:
        turn["reasoning"] = message.reasoning_content
    if message.tool_calls:
        shown = ("id", "function", "type")
        calls = ({**call, "function": _called(call["function"])} for call in message.tool_calls)
        turn["tool_calls"] = [{key: call[key] for key in shown if key in call} for call in calls]
    return turn


def _called(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments") or "{}"
    return {"arguments": json.loads(arguments) if isinstance(arguments, str) else arguments, "name": function["name"]}


def _engine_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tool as vLLM passes it to the template: with these keys in this order, absent ones null."""
    function = tool["function"]
    shown = {key: function.get(key) for key in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        shown["strict"] = function["strict"]
    return {"type": "function", "function": shown}


def _too_long(long: Sequence[_Row], total: int, max_length: int) -> str:
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
