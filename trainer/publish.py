"""Handing a finished run to a gateway over HTTP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import AdapterError, AdminClient, PublishedVersion
from adapters.connection import connect
from trainer.against_gateway import refuse_other_tokens
from trainer.errors import RunError

if TYPE_CHECKING:
    from trainer.material import Material


@dataclass(frozen=True, slots=True)
class Promotion:
    """That a version goes live once it is published; `override` ("reason", "by") stands in for its verdict."""

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


def refuse_what_is_not_served(
    ranks: Sequence[int], *, gateway_url: str, data_dir: Path, promotion: Promotion | None = None
) -> None:
    """Raise `RunError` when the gateway is out of reach, its engines would not take one of these ranks, or its gate
    would not let what has just been trained go live.
    """
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
    """A version that does not exist yet has neither a verdict nor an approval."""
    if gate.get("require_approval"):
        raise RunError(
            "--promote: the gateway wants an approval by a second person, which a version gets after it is published; "
            "train with --publish, then `turntable adapters approve` and `promote` it."
        )
    if gate.get("require_verdict") and promotion.override is None:
        raise RunError(
            "--promote: the gateway wants a verdict, which a version gets after it is published; train with "
            "--publish, then `turntable compare TASK --record` and `turntable adapters promote`; or add "
            "--override REASON --by NAME."
        )


def refuse_other_tokens_than_served(gateway_url: str, data_dir: Path) -> Callable[["Material"], None]:
    """A check of everything rendered that raises `DataError` when the gateway makes other tokens of the same rows."""

    def check(material: "Material") -> None:
        side = material.rows.train
        refuse_other_tokens(material.renderer, side.path, side.rows, gateway_url=gateway_url, data_dir=data_dir)

    return check
