"""Request patches: known killers are refused by name or cut back, everything like them that is harmless passes."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from referencing import Registry
from referencing._core import Resolver

from gateway.errors import GatewayError, InvalidRequestError, RequestTooLargeError
from gateway.inference.formats import APIS
from tests.gateway.killers import CHAT, COMPLETIONS, KILLERS, Killer, chained_rules, chat, completion

CUT_BACK = ("kv_transfer_params", "ec_transfer_params")
GRAMMAR = {"grammar": chained_rules(9_000)}
CHOICES = {"choice": [f"c{number}" for number in range(20_000)]}
MESSAGE = {"role": "user", "content": "x"}
BOOK = "x" * 300_000
STARVING: list[tuple[str, str, dict[str, Any], str]] = [
    ("a chain of rules", COMPLETIONS, completion(structured_outputs=GRAMMAR), "structured_outputs"),
    ("a long list", CHAT, chat(structured_outputs=CHOICES), "structured_outputs"),
    (
        "a long schema",
        "/v1/messages",
        {"model": "base", "max_tokens": 1, "messages": [MESSAGE], "output_config": {"format": {"schema": CHOICES}}},
        "output_config",
    ),
    ("many messages", CHAT, chat(messages=[MESSAGE] * 3_000), "messages"),
    ("a book cut short", COMPLETIONS, completion(prompt=BOOK, truncate_prompt_tokens=9), "truncate_prompt_tokens"),
    ("a book as input", "/v1/responses", {"model": "base", "input": BOOK, "truncation": "auto"}, "truncation"),
]


def parse(path: str, body: object) -> dict[str, Any]:
    return APIS[path].parse(json.dumps(body).encode(), "base").document


@pytest.mark.parametrize("killer", KILLERS, ids=[killer.name for killer in KILLERS])
def test_every_known_killer_is_refused_by_field_or_loses_the_field(killer: Killer) -> None:
    if killer.param in CUT_BACK:
        api = APIS[killer.path]
        sent = api.engine_body(api.parse(json.dumps(killer.body).encode(), "base"), "base")
        assert killer.param not in json.loads(sent)
        return
    with pytest.raises(InvalidRequestError) as refused:
        parse(killer.path, killer.body)
    assert refused.value.param == killer.param


@pytest.mark.parametrize(("path", "body", "param"), [row[1:] for row in STARVING], ids=[row[0] for row in STARVING])
def test_what_would_hold_up_everybody_else_is_refused(path: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse(path, body)
    assert refused.value.param == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/messages/count_tokens"])
def test_huge_texts_are_not_tokenised_for_nothing(path: str) -> None:
    body = {"model": "base", "prompt": "x" * (2 << 20), "tokens": [1], "messages": [{"role": "user"}]}
    with pytest.raises(RequestTooLargeError):
        parse(path, body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, completion(prompt_logprobs=None, echo=True)),
        (COMPLETIONS, completion(logprobs=5, n=128)),
        (CHAT, chat(logprobs=True, top_logprobs=5, n=8)),
        (CHAT, chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}})),
        (CHAT, chat(messages=[{"role": "user", "content": "x" * 300_000}])),
        (CHAT, chat(truncate_prompt_tokens=100)),
        ("/v1/responses", {"model": "base", "input": "x" * 300_000, "truncation": "disabled"}),
        ("/tokenize", {"prompt": "x" * 1000}),
    ],
)
def test_harmless_requests_pass(path: str, body: dict[str, Any]) -> None:
    try:
        parse(path, body)
    except GatewayError as error:
        pytest.fail(f"refused: {error}")


U: Any = [{"role": "user", "content": "x"}]
LOOPS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, chat(response_format={"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}), "response_format"),
    (CHAT, chat(structured_outputs={"json": {"items": {"$ref": "#/items"}}}), "structured_outputs"),
    (CHAT, chat(structured_outputs={"json": '{"$ref":"#/nowhere"}'}), "structured_outputs"),
    (
        "/v1/responses",
        {"model": "base", "input": "x", "text": {"format": {"type": "json_schema", "schema": {"$ref": "#"}}}},
        "text",
    ),
    (
        "/v1/messages",
        {"model": "base", "messages": U, "max_tokens": 2, "output_config": {"format": {"schema": {"$ref": "#"}}}},
        "output_config",
    ),
    (
        COMPLETIONS,
        completion(
            response_format={
                "type": "json_schema",
                "json_schema": {"schema": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}},
            }
        ),
        "response_format",
    ),
]


@pytest.mark.parametrize(("path", "body", "param"), LOOPS)
def test_schemas_that_no_engine_can_follow_are_refused_by_field(path: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse(path, body)
    assert refused.value.param == param


RECURSIVE = {
    "type": "object",
    "properties": {"children": {"type": "array", "items": {"$ref": "#"}}, "next": {"$ref": "#/$defs/node"}},
    "$defs": {"node": {"$anchor": "here", "properties": {"next": {"$ref": "#here"}}}},
}


def test_schemas_that_refer_to_themselves_further_down_pass() -> None:
    parse(CHAT, chat(structured_outputs={"json": RECURSIVE}))
    parse(CHAT, chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"$ref": "https://x/y"}}}]))


CHAIN = {"$defs": {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(400)} | {"a400": {}}}
NAMED = {"$defs": {"a": {"$anchor": "a"}}, "allOf": [{"$ref": "#a"}] * 400}


@pytest.mark.parametrize("schema", [CHAIN, NAMED])
def test_each_reference_is_followed_once_however_they_hang_together(
    schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, 30 KB of a chain held the event loop for ten seconds."""
    steps: Counter[str] = Counter()
    for kind, name in ((Resolver, "lookup"), (Registry, "crawl")):
        monkeypatch.setattr(kind, name, _counting(getattr(kind, name), steps))
    parse(CHAT, chat(structured_outputs={"json": schema}))
    assert steps["lookup"] <= 800
    assert steps["crawl"] <= 1


def _counting(work: Callable[..., Any], steps: Counter[str]) -> Callable[..., Any]:
    def counted(*args: Any, **fields: Any) -> Any:
        steps[work.__name__] += 1
        return work(*args, **fields)

    return counted


@pytest.mark.parametrize("role", ["bogus", "User", 7, True])
@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_a_role_that_does_not_exist_is_refused_with_those_that_do(path: str, role: object) -> None:
    body = {"model": "base", "messages": [*U, {"role": role, "content": "x"}]}
    with pytest.raises(
        InvalidRequestError, match="one of developer, system, user, assistant, tool, function"
    ) as refused:
        parse(path, body)
    assert refused.value.param == "messages.1.role"


@pytest.mark.parametrize("path", list(APIS))
@pytest.mark.parametrize("field", ["tools", "response_format", "structured_outputs", "messages", "text"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"content":[', "]}"), ('{"$ref":"#","a":', "}")])
def test_no_nesting_ends_in_anything_but_a_refusal_or_a_request(
    path: str, field: str, opening: str, closing: str
) -> None:
    rest = {"model": "base", "prompt": "x", "input": "x", "messages": U, "tokens": [1], "max_tokens": 2}
    rest.pop(field, None)
    padded = json.dumps(rest | {"padding": "x" * 70_000})[:-1]  # above 64 KiB, where grammars are measured
    for depth in (100, 300, 490, 1_000, 20_000):
        body = f'{padded},"{field}":[{opening * depth}1{closing * depth}]}}'.encode()
        with contextlib.suppress(GatewayError):
            api = APIS[path]
            api.engine_body(api.parse(body, "base"), "base")
