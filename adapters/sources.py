"""Where an adapter may be fetched from, and fetching it: directories of this machine, a model hub, S3.

A source comes from an administrator's request, so nothing in it decides which host is spoken to: schemes, hubs and
endpoints are the operator's, and what no entry of `AllowedSources` covers is refused.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from adapters.archive import Readable, copy_bounded
from adapters.errors import SourceError
from adapters.layout import Layout, find_adapter, list_files
from adapters.manifest import CONFIG_FILE
from adapters.remote import Found, open_hub, open_s3

_SCHEMES = ("/", "hf://", "s3://")


@dataclass(frozen=True, slots=True)
class AllowedSources:
    """What the operator lets administrators publish from; nothing, unless said.

    Each of `prefixes` is an absolute directory, `hf://org`, `hf://org/repo` or `s3://bucket/prefix`, and allows what
    lies below it. `hub_endpoint` and `s3_endpoint` are the services' own when None; credentials are found where their
    libraries look for them (HF_TOKEN, AWS_*).
    """

    prefixes: tuple[str, ...] = ()
    hub_endpoint: str | None = None
    s3_endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the files of a version came from: the source as asked for, and what it was at that moment.

    `revision` is the hub's commit, or the ETag of the weights on S3; empty for a directory.
    """

    source: str
    revision: str = ""


def fetch(source: str, into: Path, *, max_bytes: int, allowed: AllowedSources, convert: bool = False) -> Provenance:
    """Copy the adapter's files from `source` into the empty directory `into`; blocks until all is there.

    Only the adapter's own files are taken, with `convert` those of other tools too, `max_bytes` of them at most,
    counted while they stream, whatever size was announced. Raises `SourceError` for a source that is refused, absent or
    too large, `PreflightError` for another tool's adapter; `into` may then hold a part, for the caller to throw away.
    """
    if not source.startswith(_SCHEMES) or not source.isprintable():
        raise SourceError(
            f"{source!r:.200} is not a source; give an absolute directory, hf://org/repo@revision or s3://bucket/prefix."
        )
    if not _is_allowed(source, allowed.prefixes):
        raise SourceError(f"{source} is not among the sources that the operator allows; upload the files instead.")
    found = _open(source, allowed)
    layout = find_adapter(found.files, convert=convert)
    if layout is None or CONFIG_FILE not in layout.names:
        raise SourceError(f"{source} holds no {CONFIG_FILE}; give the folder of an adapter.")
    _copy_all(found, layout, into, max_bytes)
    return Provenance(source, found.revision)


def _copy_all(found: Found, layout: Layout, into: Path, max_bytes: int) -> None:
    room = max_bytes
    for name in sorted(layout.names):
        with found.files[f"{layout.folder}{name}"]() as stream:
            room -= copy_bounded(stream, into / name, room, partial(_refuse_large, name))


def _refuse_large(name: str) -> NoReturn:
    raise SourceError(f"{name} makes the adapter larger than allowed; raise max_upload_bytes.")


def _is_allowed(source: str, prefixes: tuple[str, ...]) -> bool:
    if source.startswith("/"):
        roots = [Path(prefix).resolve() for prefix in prefixes if prefix.startswith("/")]
        return any(Path(source).resolve().is_relative_to(root) for root in roots)
    return any(source == prefix or source.startswith((f"{prefix.rstrip('/')}/", f"{prefix}@")) for prefix in prefixes)


def _open(source: str, allowed: AllowedSources) -> Found:
    if source.startswith("hf://"):
        return open_hub(source, allowed.hub_endpoint)
    if source.startswith("s3://"):
        return open_s3(source, allowed.s3_endpoint)
    return _directory(source, allowed.prefixes)


def _directory(source: str, prefixes: tuple[str, ...]) -> Found:
    root = Path(source).resolve()
    paths = list(list_files(root)) if root.is_dir() else []
    return Found({path: partial(_read, root / path, prefixes) for path in paths})


def _read(path: Path, prefixes: tuple[str, ...]) -> AbstractContextManager[Readable]:
    if not _is_allowed(str(path), prefixes):
        raise SourceError(f"{path} leads out of the directories that the operator allows; copy the file there.")
    return path.open("rb")
