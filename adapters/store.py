"""Content-addressed store: one immutable directory per version, named by its digest.

    <root>/<digest>/adapter_config.json
                    adapter_model.safetensors
                    training.json, parity.json  (when the trainer wrote them)
                    manifest.json               written last: its presence means the version is complete

A version is assembled in `<root>/.incoming-*` and renamed into place, so a crash leaves either nothing or a leftover
that the next start removes. Hashes of large files are cached in a small file beside them, valid while size and
modification time are unchanged.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from adapters.errors import StoreError
from adapters.layout import ADAPTER_FILES
from adapters.manifest import (
    MANIFEST_FILE,
    TRAINING_FILE,
    WEIGHTS_FILE,
    Conversion,
    Manifest,
    content_digest,
    file_sha256,
)
from adapters.peft_config import PeftConfig

CACHE_FILE = ".turntable-sha256.json"

_INCOMING = ".incoming-"
_DISK_ERRORS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ENOTDIR,
        errno.EEXIST,
    }
)


def cached_sha256(directory: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by name; only new and changed files are read.

    A directory that cannot be written keeps nothing: its files are read again by the next process.
    """
    known, found = _read(directory / CACHE_FILE), dict[str, Any]()
    for path in files:
        state = [path.stat().st_size, path.stat().st_mtime_ns]
        before = known.get(path.name)
        if not isinstance(before, dict) or before.get("state") != state:
            before = {"state": state, "sha256": file_sha256(path)}
        found[path.name] = before
    if found != known:
        with contextlib.suppress(OSError):
            _replace(directory / CACHE_FILE, json.dumps(found, indent=1))
    return {name: str(entry["sha256"]) for name, entry in found.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)


class Store:
    """Content-addressed store of versions under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._putting = threading.Lock()
        with _disk(root):
            root.mkdir(parents=True, exist_ok=True)
            for leftover in root.glob(f"{_INCOMING}*"):
                _sweep(leftover)

    def path(self, digest: str) -> Path:
        """Return the directory of a version; the path contains the digest, so other weights have another path."""
        return self.root / digest

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """Make a scratch directory on the store's disk; removed afterwards unless `put` stored it."""
        with _disk(self.root), _scratch(self.root) as scratch:
            yield scratch

    def put(self, directory: Path, config: PeftConfig, converted: Conversion | None = None) -> Manifest:
        """Store a checked adapter directory and return its manifest; storing the same content twice is one version.

        A version whose bytes have changed on disk is replaced.
        """
        with self.incoming() as scratch:
            for name in ADAPTER_FILES:
                if (directory / name).is_file():
                    shutil.copyfile(directory / name, scratch / name)
            manifest = _describe(scratch, config, converted)
            (scratch / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
            with self._putting:
                if self._is_whole(manifest.digest):
                    return self.read(manifest.digest)
                _sync(*scratch.iterdir(), scratch)
                self._place(scratch, manifest.digest)
                _sync(self.root)
            return manifest

    def read(self, digest: str) -> Manifest:
        """Read the manifest of a stored version; raises `StoreError` when the version is absent or incomplete."""
        try:
            return Manifest.model_validate_json((self.path(digest) / MANIFEST_FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise StoreError(f"Version {digest[:12]} is not in the store or is damaged; publish it again.") from error

    def verify(self, digest: str) -> Path:
        """Re-hash a version's files and return their directory; raises `StoreError` when a byte has changed."""
        manifest, directory = self.read(digest), self.path(digest)
        for name, expected in manifest.files.items():
            if not (directory / name).is_file() or file_sha256(directory / name) != expected:
                raise StoreError(f"{name} of version {digest[:12]} has changed on disk; publish the adapter again.")
        return directory

    def delete(self, digest: str) -> None:
        """Delete the files of a version that is not in use; a missing version is not an error."""
        with self.incoming() as scratch, self._putting:
            if self.path(digest).exists():
                self.path(digest).rename(scratch / digest)  # a crash leaves it whole, or as a leftover to sweep
                _sync(self.root)

    def _place(self, scratch: Path, digest: str) -> None:
        """Rename `scratch` to its version's directory, unless another gateway stored the same content first."""
        try:
            scratch.rename(self.path(digest))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not self._is_whole(digest):
                with _scratch(self.root) as aside:
                    self.path(digest).rename(aside / digest)
                    scratch.rename(self.path(digest))

    def _is_whole(self, digest: str) -> bool:
        try:
            self.verify(digest)
        except StoreError:
            return False
        return True


def _describe(directory: Path, config: PeftConfig, converted: Conversion | None) -> Manifest:
    files = {name: file_sha256(directory / name) for name in ADAPTER_FILES if (directory / name).is_file()}
    training = directory / TRAINING_FILE
    return Manifest(
        digest=content_digest(config.raw, files[WEIGHTS_FILE]),
        r=config.r,
        lora_alpha=config.lora_alpha,
        target_modules=config.target_modules,
        weights_bytes=(directory / WEIGHTS_FILE).stat().st_size,
        files=files,
        training=orjson.loads(training.read_bytes()) if training.is_file() else {},
        created_at=datetime.now(UTC),
        converted=converted,
    )


@contextlib.contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """Make a scratch directory, locked against the sweep of other gateways while this process uses it."""
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=root))
        descriptor = os.open(scratch, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if scratch.exists():
            break
        os.close(descriptor)  # swept in between
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(descriptor)


def _sweep(leftover: Path) -> None:
    """Remove a scratch directory whose process has ended."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)


def _sync(*paths: Path) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _disk(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:  # a lost connection is an OSError too, and not this disk's fault
            raise
        raise StoreError(
            f"The adapter store {root} cannot be written ({error.strerror}); free or fix that disk."
        ) from error
