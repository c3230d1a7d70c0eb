"""Do the trainer and a running gateway make the same tokens of the same messages? If not, the adapter meets in service
what it never saw in training: another template, another tokenizer, a second begin-of-text token.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapters import AdapterError
from adapters.connection import admin_key, whence
from trainer.data.rows import Example, Pair
from trainer.errors import DataError, Problem, RunError

if TYPE_CHECKING:
    import httpx

    from trainer.rendering import Renderer

_TIMEOUT_S = 30.0
_ROWS = 10
_BAD_REQUEST = 400


def refuse_other_tokens(
    renderer: "Renderer", path: Path, rows: Sequence[Example | Pair], *, gateway_url: str, data_dir: Path
) -> None:
    """Raise `DataError` naming the rows of which the gateway makes other tokens; looks at some, spread over all."""
    some = [rows[number * len(rows) // _ROWS] for number in range(_ROWS)] if len(rows) > _ROWS else rows
    if problems := other_tokens(renderer, path, some, gateway_url=gateway_url, data_dir=data_dir):
        raise DataError(problems)


def other_tokens(
    renderer: "Renderer", path: Path, rows: Sequence[Example | Pair], *, gateway_url: str, data_dir: Path
) -> list[Problem]:
    """The rows of which the gateway makes other tokens, and where they part; raises `RunError` when it cannot be asked.

    A row that cannot be rendered at all is not looked at.
    """
    import httpx

    problems = []
    try:
        key = admin_key(data_dir)
        with httpx.Client(
            base_url=gateway_url, headers={"authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S, trust_env=False
        ) as http:
            for row in rows:
                for example in (row.preferred, row.rejected) if isinstance(row, Pair) else (row,):
                    if text := _difference(renderer, example, http):
                        problems.append(Problem(str(path), row.line, text))
                        break
    except (AdapterError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise RunError(
            f"the gateway at {gateway_url}, {whence(gateway_url, data_dir)}, cannot be asked for its tokens: {error}"
        ) from error
    return problems


def _difference(renderer: "Renderer", example: Example, http: "httpx.Client") -> str:
    try:
        ours = renderer.render(example).input_ids
    except ValueError:
        return ""
    body = {"messages": example.as_dicts(), "tools": list(example.tools) or None, "add_generation_prompt": False}
    answer = http.post("/tokenize", json=body)
    if answer.status_code == _BAD_REQUEST:
        return f"is refused by the gateway: {answer.json()['error']['message']}"
    theirs = answer.raise_for_status().json()["tokens"]
    if ours == theirs:
        return ""
    at = next((i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
    if at is None:
        return f"has {len(ours)} tokens here and {len(theirs)} in the gateway; train with the served base's template"
    here, there = (renderer.tokenizer.decode(ids[at : at + 3]) for ids in (ours, theirs))
    return (
        f"becomes other tokens in the gateway from token {at} on ({here!r} here, {there!r} there); train with the "
        "served base's tokenizer and chat template"
    )
