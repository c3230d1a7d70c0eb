"""Fetch adapters from allowed sources: local directories, a model hub, S3; hub and S3 libraries are optional extras.

Sources come from administrators' requests and must not decide which host is contacted: schemes, hubs and endpoints are
the operator's, and a source that no entry of `AllowedSources` covers is refused.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from adapters.archive import Readable, copy_bounded
from adapters.errors import SourceError
from adapters.layout import Layout, find_adapter, list_files
from adapters.manifest import CONFIG_FILE, WEIGHTS_FILE

_HUB = re.compile(r"hf://(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)@(?P<revision>[\w-][\w./-]*)", re.ASCII)
_S3 = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]+)/(?P<prefix>[\w./=+@ -]*[\w=+@-])/?", re.ASCII)
_TIMEOUT_S = 30
_BLOCK_BYTES = 8 << 20

_SCHEMES = ("/", "hf://", "s3://")


@dataclass(frozen=True, slots=True)
class FoundSource:
    """Files of a source by relative path, opened on demand, and their revision."""

    files: Mapping[str, Callable[[], AbstractContextManager[Readable]]]
    revision: str = ""


def open_hub(source: str, endpoint: str | None) -> FoundSource:
    """Open `hf://org/repo@revision` at the commit that the revision resolves to."""
    match = _HUB.fullmatch(source)
    if match is None or ".." in source:
        raise SourceError(f"{source} is not written as hf://org/repo@revision; give a branch, a tag or a commit.")
    try:
        from httpx2 import HTTPError
        from huggingface_hub import HfApi, HfFileSystem
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError as error:
        raise _missing("hub", source) from error
    fails = _Translated(source, OSError, ValueError, HTTPError, HfHubHTTPError)
    with fails:
        info = HfApi(endpoint=endpoint).model_info(match["repo"], revision=match["revision"], timeout=_TIMEOUT_S)
    hub = HfFileSystem(endpoint=endpoint, skip_instance_cache=True)
    names = [sibling.rfilename for sibling in info.siblings or ()]

    def opened(name: str) -> AbstractContextManager[Readable]:
        return _stream(fails, lambda: hub.open(f"{match['repo']}/{name}", revision=info.sha, block_size=0))

    return FoundSource({name: partial(opened, name) for name in names}, str(info.sha))


def open_s3(source: str, endpoint: str | None) -> FoundSource:
    """Open the files directly below `s3://bucket/prefix`; raises `SourceError` for files changed since listing."""
    match = _S3.fullmatch(source)
    if match is None or ".." in source:
        raise SourceError(f"{source} is not written as s3://bucket/prefix; give the folder of an adapter.")
    try:
        from botocore.exceptions import BotoCoreError, ClientError
        from s3fs import S3FileSystem
    except ModuleNotFoundError as error:
        raise _missing("s3", source) from error
    fails = _Translated(source, OSError, ValueError, BotoCoreError, ClientError)
    timeouts = {"connect_timeout": _TIMEOUT_S, "read_timeout": _TIMEOUT_S, "retries": {"max_attempts": 2}}
    bucket = S3FileSystem(endpoint_url=endpoint, config_kwargs=timeouts, skip_instance_cache=True)
    with fails:
        listed = bucket.ls(f"{match['bucket']}/{match['prefix']}", detail=True)
    found = {entry["name"].rpartition("/")[2]: entry for entry in listed if entry["type"] == "file"}

    def opened(name: str) -> AbstractContextManager[Readable]:
        return _stream(fails, lambda: bucket.open(found[name]["name"], block_size=_BLOCK_BYTES, cache_type="readahead"))

    etag = str(found.get(WEIGHTS_FILE, {}).get("ETag", "")).strip('"')
    return FoundSource({name: partial(opened, name) for name in found}, etag)


class _Translated(AbstractContextManager[None]):
    """Context manager that turns a library's errors into a `SourceError`."""

    def __init__(self, source: str, *kinds: type[Exception]) -> None:
        self._source = source
        self._kinds = kinds

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, self._kinds):
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SourceError(
                f"{self._source} cannot be fetched ({reason:.300}); check the name, the network and the credentials."
            ) from error


@dataclass(frozen=True, slots=True)
class _Stream:
    """Stream whose read errors are raised as a `SourceError`."""

    file: Readable
    fails: _Translated

    def read(self, size: int, /) -> bytes:
        with self.fails:
            return self.file.read(size)


@contextmanager
def _stream(fails: _Translated, opens: Callable[[], Any]) -> Iterator[Readable]:
    with fails:
        file = opens()
    with closing(file):
        yield _Stream(file, fails)


def _missing(extra: str, source: str) -> SourceError:
    return SourceError(f"{source} needs a package that is not here; run pip install 'turntable-gateway[{extra}]'.")


@dataclass(frozen=True, slots=True)
class AllowedSources:
    """Sources that the operator allows; none by default.

    Each of `prefixes` is an absolute directory, `hf://org`, `hf://org/repo` or `s3://bucket/prefix`, and allows what
    lies below it. `hub_endpoint` and `s3_endpoint` are the services' own when None; credentials are found where their
    libraries look for them (HF_TOKEN, AWS_*).
    """

    prefixes: tuple[str, ...] = ()
    hub_endpoint: str | None = None
    s3_endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class SourceProvenance:
    """Provenance of a version: the requested source and its resolved revision.

    `revision` is the hub's commit, or the ETag of the weights on S3; empty for a directory.
    """

    source: str
    revision: str = ""


def fetch(
    source: str, into: Path, *, max_bytes: int, allowed: AllowedSources, convert: bool = False
) -> SourceProvenance:
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
    return SourceProvenance(source, found.revision)


def _copy_all(found: FoundSource, layout: Layout, into: Path, max_bytes: int) -> None:
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


def _open(source: str, allowed: AllowedSources) -> FoundSource:
    if source.startswith("hf://"):
        return open_hub(source, allowed.hub_endpoint)
    if source.startswith("s3://"):
        return open_s3(source, allowed.s3_endpoint)
    return _directory(source, allowed.prefixes)


def _directory(source: str, prefixes: tuple[str, ...]) -> FoundSource:
    root = Path(source).resolve()
    paths = list(list_files(root)) if root.is_dir() else []
    return FoundSource({path: partial(_read, root / path, prefixes) for path in paths})


def _read(path: Path, prefixes: tuple[str, ...]) -> AbstractContextManager[Readable]:
    if not _is_allowed(str(path), prefixes):
        raise SourceError(f"{path} leads out of the directories that the operator allows; copy the file there.")
    return path.open("rb")
