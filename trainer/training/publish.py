"""Publish a finished run to a gateway over HTTP, and check before training that it could be published.

The checks: engines that take the rank, a gate that allows the promotion, and equal tokens. If trainer and gateway
tokenize the same messages differently (another template, tokenizer or BOS token), the adapter is served input unlike
its training data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import AdapterError, AdminClient, PublishedVersion
from adapters.admin_client import admin_key, connect, whence
from trainer.data.schema import Example, Pair
from trainer.errors import DataError, Problem, RunError

if TYPE_CHECKING:
    import httpx

    from trainer.training.loss_mask import Renderer
if TYPE_CHECKING:
    from trainer.training.dataset import PreparedData


_TIMEOUT_S = 30.0
_ROWS = 10
_BAD_REQUEST = 400


def refuse_other_tokens(
    renderer: "Renderer", path: Path, rows: Sequence[Example | Pair], *, gateway_url: str, data_dir: Path
) -> None:
    """Raise `DataError` with the rows that the gateway tokenizes differently; checks a few, spread over all."""
    some = [rows[number * len(rows) // _ROWS] for number in range(_ROWS)] if len(rows) > _ROWS else rows
    if problems := other_tokens(renderer, path, some, gateway_url=gateway_url, data_dir=data_dir):
        raise DataError(problems)


def other_tokens(
    renderer: "Renderer", path: Path, rows: Sequence[Example | Pair], *, gateway_url: str, data_dir: Path
) -> list[Problem]:
    """Return the rows that the gateway tokenizes differently, with the first other token; raises `RunError`.

    A row that cannot be rendered is skipped.
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
            f"the gateway at {gateway_url}, {whence(gateway_url, data_dir)}, does not tokenize: {error}"
        ) from error
    return problems


def _difference(renderer: "Renderer", example: Example, http: "httpx.Client") -> str:
    try:
        ours = renderer.prompt_ids(example)
    except ValueError:
        return ""
    body = {
        "messages": example.as_dicts()[: example.answer_index],
        "tools": list(example.tools) or None,
        "add_generation_prompt": True,
        "chat_template_kwargs": dict(renderer.options.kwargs) or None,
    }
    answer = http.post("/tokenize", json=body)
    if answer.status_code == _BAD_REQUEST:
        return f"is refused by the gateway: {answer.json()['error']['message']}"
    theirs = answer.raise_for_status().json()["tokens"]
    if ours == theirs:
        return ""
    at = next((i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
    if at is None:
        return (
            f"has {len(ours)} tokens before its last answer here, {len(theirs)} in the gateway; train with the served "
            "base's chat template"
        )
    here, there = (renderer.tokenizer.decode(ids[at : at + 3]) for ids in (ours, theirs))
    return (
        f"is tokenized differently by the gateway from token {at} on ({here!r} here, {there!r} there); train with the "
        "served base's tokenizer and chat template"
    )


@dataclass(frozen=True, slots=True)
class Promotion:
    """Make a version live once it is published; `override` ("reason", "by") replaces its verdict."""

    override: Mapping[str, str] | None = None


def publish(
    directory: Path, name: str, *, gateway_url: str, data_dir: Path, promotion: Promotion | None
) -> PublishedVersion:
    """Upload a run directory as a new version of `name` and, when asked, make it live.

    Raises `RunError` in the gateway's own words; the run directory stays, so publishing can be tried again.
    """
    try:
        with connect(gateway_url, data_dir) as admin:
            published = admin.publish(name, directory)
            if promotion is not None:
                _promote(admin, published, promotion)
    except AdapterError as error:
        raise RunError(f"{directory} is trained but not published: {error}") from error
    return published


def _promote(admin: AdminClient, published: PublishedVersion, promotion: Promotion) -> None:
    try:
        admin.promote_published(published, override=promotion.override)
    except AdapterError as error:
        raise RunError(str(error)) from error


def refuse_unpublishable(
    ranks: Sequence[int], *, gateway_url: str, data_dir: Path, promotion: Promotion | None = None
) -> None:
    """Raise `RunError` when the gateway cannot be reached, or could not serve or promote what will be trained."""
    try:
        with connect(gateway_url, data_dir) as admin:
            engines = admin.request("GET", "/engines").get("data", [])
            gate = admin.request("GET", "/gate") if promotion is not None else {}
    except AdapterError as error:
        raise RunError(f"the adapter could not be published after training: {error}") from error
    if promotion is not None:
        _refuse_unprovable(gate, promotion)
    limit = min((engine["max_lora_rank"] for engine in engines), default=max(ranks))
    if max(ranks) > limit:
        raise RunError(
            f"lora.r is {max(ranks)}, over the engine's {limit}; lower it, or start the gateway with "
            f"--max-lora-rank {max(ranks)}."
        )


def _refuse_unprovable(gate: Mapping[str, Any], promotion: Promotion) -> None:
    """Raise `RunError` when the gate asks for a verdict or an approval, which no version has before it is published."""
    if gate.get("require_approval"):
        raise RunError(
            "--promote: the gateway requires an approval by a second person, which follows publishing; "
            "train with --publish, then `turntable adapters approve` and `promote` it."
        )
    if gate.get("require_verdict") and promotion.override is None:
        raise RunError(
            "--promote: the gateway requires a verdict, which a version gets after it is published; train with "
            "--publish, then `turntable compare TASK --record` and `turntable adapters promote`; or add "
            "--override REASON --by NAME."
        )


def refuse_other_tokens_than_served(gateway_url: str, data_dir: Path) -> Callable[["PreparedData"], None]:
    """Return a check of the prepared data that raises `DataError` when the gateway tokenizes its rows differently."""

    def check(material: "PreparedData") -> None:
        for file in material.rows.train.files:
            refuse_other_tokens(material.renderer, file.path, file.rows, gateway_url=gateway_url, data_dir=data_dir)

    return check
