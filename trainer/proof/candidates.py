"""Which exact versions a comparison is about: refs become `name@v3` with a digest, as the gateway has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import AdapterError
from adapters.client import AdminClient
from adapters.connection import connect
from adapters.errors import AdminError
from adapters.ref import AdapterRef
from trainer.errors import EvaluationError
from trainer.proof.arms import Candidate
from trainer.proof.document import BaseFacts

BASE = "base"
_NOT_FOUND, _DENIED = 404, (0, 401, 403)


@dataclass(frozen=True)
class Served:
    """What the gateway serves: the base with its hashes as far as it tells, and the adapters asked for."""

    base: BaseFacts
    candidates: tuple[Candidate, ...]


def look_up(refs: Sequence[str], gateway_url: str, data_dir: Path) -> Served:
    """Resolve refs through the admin API; without an admin key they are asked as they stand, with unknown digests.

    A name alone means its live version, or the newest ready one when none is live. Raises `EvaluationError`.
    """
    unknown = Served(
        BaseFacts(model=BASE, base_sha256=None, template_sha256=None), tuple(Candidate(r, r) for r in refs)
    )
    try:
        with connect(gateway_url, data_dir) as admin:
            return Served(_base(admin), tuple(_candidate(admin, ref) for ref in refs))
    except AdminError as error:
        if error.status in _DENIED:
            return unknown
        raise EvaluationError(str(error)) from error
    except AdapterError as error:
        raise EvaluationError(str(error)) from error


def _base(admin: AdminClient) -> BaseFacts:
    try:
        told = admin.request("GET", "/base")
    except AdminError as error:
        if error.status != _NOT_FOUND:
            raise
        return BaseFacts(model=BASE, base_sha256=None, template_sha256=None)
    return BaseFacts(model=told["model"], base_sha256=told["base_sha256"], template_sha256=told["template_sha256"])


def _candidate(admin: AdminClient, ref: str) -> Candidate:
    parsed = AdapterRef.parse(ref)
    versions: list[dict[str, Any]] = admin.request("GET", f"/adapters/{parsed.name}")["versions"]
    found = [version for version in versions if _fits(version, parsed)]
    live = [version for version in found if version["live"]]
    ready = [version for version in found if version["state"] == "ready"]
    if not found:
        raise EvaluationError(f"there is no version {ref}; `turntable adapters show {parsed.name}` lists them.")
    chosen = (live or ready or found)[-1]
    return Candidate(ref, f"{parsed.name}@{chosen['version']}", chosen["digest"])


def _fits(version: Mapping[str, Any], ref: AdapterRef) -> bool:
    if ref.version is not None:
        return bool(version["version"] == f"v{ref.version}")
    return str(version["digest"]).startswith(ref.digest12 or "")
