"""Files of an adapter on a model hub or on S3, as streams; the libraries for it are opt-in extras."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from adapters.archive import Readable
from adapters.errors import SourceError
from adapters.manifest import WEIGHTS_FILE

_HUB = re.compile(r"hf://(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)@(?P<revision>[\w-][\w./-]*)", re.ASCII)
_S3 = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]+)/(?P<prefix>[\w./=+@ -]*[\w=+@-])/?", re.ASCII)
_TIMEOUT_S = 30
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a source by relative path, each opened when called for, and the revision they are of."""

    files: Mapping[str, Callable[[], AbstractContextManager[Readable]]]
    revision: str = ""


def open_hub(source: str, endpoint: str | None) -> Found:
    """The files of `hf://org/repo@revision` at the commit that the revision means now."""
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

    return Found({name: partial(opened, name) for name in names}, str(info.sha))


def open_s3(source: str, endpoint: str | None) -> Found:
    """The files directly below `s3://bucket/prefix`; each is read as it was when it was listed, or not at all."""
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
    return Found({name: partial(opened, name) for name in found}, etag)


class _Translated(AbstractContextManager[None]):
    """Errors of a library, raised within, as a `SourceError` about the source."""

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
    """A file whose errors while reading are those of its source."""

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
