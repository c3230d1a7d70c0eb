"""Render messages with a chat template exactly as the engine does: the prompt of an answer, and the answer.

vLLM hands messages to the template in a form of its own: arguments of tool calls as objects, tools with a fixed order
of keys, and, for templates that loop over the parts of a content, contents as lists of parts. It gives the model the
messages before the answer with the generation prompt; the model generates the answer up to a stop token.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from trainer.data.schema import Message
from trainer.errors import RunError

if TYPE_CHECKING:
    from jinja2 import nodes
    from transformers import PreTrainedTokenizerBase

    from trainer.data.schema import Example

Reasoning = Literal["template", "inline", "drop"]
SpecialTokens = Literal["drop", "escape", "stop"]
_OPEN, _CLOSE = "<think>", "</think>"
# The end of a prompt that a template may leave out of the history: a begun, an empty or a finished thought.
_PREFILL = re.compile(rf"(?:{_OPEN}\s*)?(?:{_CLOSE}\s*)?$")
_EMPTY_THOUGHT = re.compile(rf"^(?:{_OPEN}\s*)?{_CLOSE}\s*")
_INLINE_THOUGHT = re.compile(rf"\s*{_OPEN}(.*?){_CLOSE}\s*", re.DOTALL)
_PROBE = "PROBE"
_Form = Literal["engine", "null content", "text arguments"]
_FORMS: tuple[_Form, ...] = ("engine", "null content", "text arguments")


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """How a recipe renders rows: the Jinja text of another template, the template's variables, and the reasoning.

    `reasoning` says how `reasoning_content` is written: by the template, inline as `<think>…</think>` before the
    answer, or not at all. `special_tokens` says what becomes of a row whose texts hold a control token.
    """

    template: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    reasoning: Reasoning = "template"
    special_tokens: SpecialTokens = "drop"


class ChatTemplate:
    """A tokenizer's chat template with the options of a recipe."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", stop_texts: Sequence[str], options: TemplateOptions
    ) -> None:
        self._tokenizer, self._options = tokenizer, options
        self._stop_texts = tuple(stop_texts)

    @property
    def source(self) -> str:
        """The Jinja text."""
        return self._options.template or str(self._tokenizer.get_chat_template())

    def prompt(self, example: "Example", index: int) -> str:
        """Return the prompt that the engine makes of the messages before `index`; raises `ValueError`."""
        return self._text(example.messages[:index], example.tools, add_generation_prompt=True)

    def answer(self, example: "Example", index: int, prompt: str) -> str:
        """Return the text that the model is to generate after `prompt`, through its stop token; raises `ValueError`."""
        message = self._written(example.messages[index])
        answer = self._after(prompt, self._through(example, index), message, index)
        answer = answer.removeprefix(self._header)
        if (stopped := self._cut(answer)) is None:
            stopped = self._cut(answer + self._stop_after(example, index))
        if stopped is None:
            raise ValueError(
                f"messages[{index}] is not followed by a stop token ({', '.join(self._stop_texts)}) in the base "
                "model's chat template, so the model would never learn to stop; set chat_template in [data] to a "
                "template that ends answers with one"
            )
        self._refuse_loss(stopped, message, index)
        return stopped

    def _through(self, example: "Example", index: int) -> str:
        """Return the text of the messages through `index`.

        DeepSeek's templates write a call only where its content is null, or its arguments are text, neither of which
        the engine makes of a history. It stops no model from calling, so the answer is rendered as they want it.
        """
        before, message, tools = example.messages[:index], example.messages[index], example.tools
        text, reason = "", ""
        for form in _FORMS if message.tool_calls else _FORMS[:1]:
            try:
                text = self._text((*before, message), tools, answer_form=form)
            except ValueError as error:
                reason = reason or str(error)
                continue
            if all(call["function"]["name"] in text[len(self._text(before, tools)) :] for call in message.tool_calls):
                return text
        if not text:
            raise ValueError(reason)
        return text

    def _after(self, prompt: str, through: str, message: Message, index: int) -> str:
        """Return what `through` has after the prompt; a thought that the prompt begins is continued."""
        if through.startswith(prompt):
            return through[len(prompt) :]
        begun = _PREFILL.search(prompt)
        assert begun is not None, "the pattern matches an empty end too"
        start, prefill = begun.start(), begun.group()
        if not through.startswith(prompt[:start]):
            raise ValueError(
                f"messages[{index}] is rendered otherwise than the engine's prompt for it, which ends in "
                f"{prompt[-40:]!r}; set chat_template in [data] to a template that agrees with itself"
            )
        rest = through[start:].lstrip()
        if _CLOSE in prefill:
            if message.reasoning_content or _INLINE_THOUGHT.match(message.content):
                raise ValueError(
                    f"messages[{index}] has reasoning, but the engine's prompt for it ends in {prefill!r}, after which "
                    'none is generated; set reasoning_content = "drop" or other chat_template_kwargs in [data]'
                )
            return _EMPTY_THOUGHT.sub("", rest)
        if _OPEN not in prefill or rest.startswith(_OPEN):
            return rest.removeprefix(_OPEN)
        thought = message.reasoning_content or ""
        if not thought and (inline := _INLINE_THOUGHT.match(message.content)):
            thought = inline[1]
        return f"{thought.strip()}\n{_CLOSE}\n\n{rest}"

    def _cut(self, answer: str) -> str | None:
        """Return an answer through its first stop token; None without one."""
        ends = [at + len(stop) for stop in self._stop_texts if (at := answer.find(stop)) >= 0]
        return answer[: min(ends)] if ends else None

    def _stop_after(self, example: "Example", index: int) -> str:
        """Return what a template that ends answers with the next message's first token writes after this answer."""
        message = example.messages[index]
        bare = replace(message, reasoning_content=None, content=_INLINE_THOUGHT.sub("", message.content, count=1))
        if bare.tool_calls:
            call = bare.tool_calls[0]
            follower = Message("tool", _PROBE, tool_call_id=call.get("id"), name=call["function"]["name"])
        else:
            follower = Message("user", _PROBE)
        before = (*example.messages[:index], bare)
        ended, followed = self._text(before, example.tools), self._text((*before, follower), example.tools)
        return followed[len(ended) :].lstrip() if followed.startswith(ended) else ""

    def _refuse_loss(self, answer: str, message: Message, index: int) -> None:
        """Raise `ValueError` where the answer does not hold all of the message."""
        thought = message.reasoning_content
        if thought and thought.strip() not in answer:
            raise ValueError(
                f"messages[{index}].reasoning_content is left out by the base model's chat template; set "
                'reasoning_content = "inline" in [data] to write it as <think>…</think> before the answer, or "drop"'
            )
        for piece in re.split(f"{_OPEN}|{_CLOSE}", message.content):
            if piece.strip() not in answer:
                raise ValueError(f"messages[{index}].content is not rendered whole by the base model's chat template")
        for call in message.tool_calls:
            if call["function"]["name"] not in answer:
                raise ValueError(
                    f"messages[{index}].tool_calls are left out by the base model's chat template; choose a base that "
                    "calls tools, or set chat_template in [data]"
                )

    def _text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        answer_form: _Form | None = None,
        **options: Any,
    ) -> str:
        """Return the text of messages, the last one in `answer_form` if it is given."""
        from jinja2 import TemplateError

        shaped = [_engine_message(self._written(message), parts=self._parts) for message in messages]
        if answer_form is not None:
            shaped[-1] = _answer_message(shaped[-1], answer_form)
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    shaped,
                    tools=[_engine_tool(tool) for tool in tools] or None,
                    chat_template=self.source,
                    tokenize=False,
                    **self._options.kwargs,
                    **options,
                )
            )
        except (TemplateError, IndexError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"is refused by the base model's chat template: {error}") from error

    @property
    def _parts(self) -> bool:
        return _wants_parts(self.source)

    def _written(self, message: Message) -> Message:
        """Return the message with its reasoning where the recipe wants it."""
        thought = message.reasoning_content
        if not thought or self._options.reasoning == "template":
            return message
        if self._options.reasoning == "drop":
            return replace(message, reasoning_content=None)
        content = f"{_OPEN}\n{thought.strip()}\n{_CLOSE}\n\n{message.content}"
        return replace(message, reasoning_content=None, content=content)

    @cached_property
    def _header(self) -> str:
        """What the generation prompt adds behind a question, without a thought that it begins; empty for some."""
        asked = (Message("user", _PROBE),)
        try:
            plain, prompt = self._text(asked, ()), self._text(asked, (), add_generation_prompt=True)
        except ValueError:
            return ""
        return _PREFILL.sub("", prompt[len(plain) :]) if prompt.startswith(plain) else ""

    def check(self) -> None:
        """Raise `RunError` where a variable is not the template's, or the model would have to write its own header."""
        unknown = sorted(self._options.kwargs.keys() - _variables(self.source))
        if unknown:
            raise RunError(
                f"data.chat_template_kwargs: the chat template has no variable {unknown[0]}; correct the name or leave "
                "it out."
            )
        asked, answer = (Message("user", _PROBE),), f"{_PROBE}S"
        try:
            plain, through = self._text(asked, ()), self._text((*asked, Message("assistant", answer)), ())
        except ValueError:
            return
        header = through.removeprefix(plain).partition(answer)[0]
        if not self._header and through.startswith(plain) and header.strip():
            written = header.encode("unicode_escape").decode()
            raise RunError(
                f"the chat template has no generation prompt, so the model would have to write {written!r} itself; add "
                f"{{% if add_generation_prompt %}}{{{{ {header!r} }}}}{{% endif %}} at its end, and name the file as "
                "chat_template in [data]."
            )


def _engine_message(message: Message, *, parts: bool) -> dict[str, Any]:
    """Return the message as vLLM passes it to the template: with these keys of a call in this order, and its arguments
    as an object, not a string of JSON.
    """
    turn = message.as_dict()
    if parts and message.role != "tool":
        turn["content"] = [{"type": "text", "text": message.content}]
    if message.reasoning_content:
        turn["reasoning"] = message.reasoning_content
    if message.tool_calls:
        shown = ("id", "function", "type")
        calls = ({**call, "function": _called(call["function"])} for call in message.tool_calls)
        turn["tool_calls"] = [{key: call[key] for key in shown if key in call} for call in calls]
    return turn


def _answer_message(turn: dict[str, Any], form: _Form) -> dict[str, Any]:
    """Return an answer with its reasoning under gpt-oss's and LFM2's name too, and its calls in another form."""
    if "reasoning" in turn:
        turn = {**turn, "thinking": turn["reasoning"]}
    if form == "engine":
        return turn
    turn = {**turn, "content": turn["content"] or None}
    if form == "text arguments":
        turn["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
            for call in turn["tool_calls"]
        ]
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


def _variables(template: str) -> set[str]:
    """Return the names that a template reads and does not set; raises `RunError` when it is not Jinja."""
    from jinja2 import TemplateError, meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        return set(meta.find_undeclared_variables(_compile_jinja_template(template).environment.parse(template)))
    except TemplateError as error:
        raise RunError(f"the chat template is not valid Jinja ({error}); correct it or choose another one.") from error


@lru_cache(maxsize=8)
def _wants_parts(template: str) -> bool:
    """Return whether a template loops over the parts of a content, as vLLM decides it from the syntax tree."""
    from jinja2 import TemplateError, nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        tree = _compile_jinja_template(template).environment.parse(template)
    except TemplateError:
        return False
    messages = {"messages"} | {str(name) for name in _assigned(tree, "messages")}
    items = {
        loop.target.name
        for loop in tree.find_all(nodes.For)
        if isinstance(loop.target, nodes.Name) and any(_is_name(_bare(loop.iter), name) for name in messages)
    }
    inside = [(macro, loop) for macro in tree.find_all(nodes.Macro) for loop in macro.find_all(nodes.For)]
    for loop in tree.find_all(nodes.For):
        source = _bare(loop.iter)
        if _is_content(source, items):
            return True
        macros = [macro for macro, inner in inside if inner is loop]
        if isinstance(source, nodes.Name):
            if not macros and source.name == "content":
                return True
            if any(source.name in _content_parameters(tree, macro, items) for macro in macros):
                return True
    return False


def _assigned(tree: "nodes.Template", source: str) -> Iterator[str]:
    """Yield the names that are assigned `source`, or a part of it, directly or through each other."""
    from jinja2 import nodes

    waiting, seen = [source], {source}
    while waiting:
        name = waiting.pop()
        for assignment in tree.find_all(nodes.Assign):
            target = assignment.target
            if isinstance(target, nodes.Name) and target.name not in seen and _is_name(_bare(assignment.node), name):
                seen.add(target.name)
                waiting.append(target.name)
                yield target.name


def _content_parameters(tree: "nodes.Template", macro: "nodes.Macro", items: set[str]) -> set[str]:
    """Return the parameters of a macro that are given a message's content somewhere."""
    from jinja2 import nodes

    found = set()
    for call in tree.find_all(nodes.Call):
        if _is_name(call.node, macro.name):
            given = [*zip((one.name for one in macro.args), call.args, strict=False)]
            given += [(one.key, one.value) for one in call.kwargs]
            found |= {name for name, value in given if _is_content(_bare(value), items)}
    return found


def _bare(node: Any) -> Any:
    """Strip filters, tests and slices."""
    from jinja2 import nodes

    while True:
        is_slice = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        if not is_slice and not (isinstance(node, nodes.Filter | nodes.Test) and node.node is not None):
            return node
        node = node.node


def _is_name(node: Any, name: str) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _is_content(node: Any, items: set[str]) -> bool:
    from jinja2 import nodes

    if isinstance(node, nodes.Getattr):
        is_content = node.attr == "content"
    else:
        is_content = isinstance(node, nodes.Getitem) and getattr(node.arg, "value", None) == "content"
    return is_content and any(_is_name(node.node, item) for item in items)
