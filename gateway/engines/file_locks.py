"""Adapter file locks: keep a version's files in the store while any engine may still read them.

vLLM reads an adapter again within a step when its cache has evicted it, and crashes when the files are gone. Locks are
counted here per engine, and held as POSIX byte-range locks on one file of the store, so that other gateways see them
and a killed gateway leaves none behind.
"""

import contextlib
import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from adapters import StoreError, Version

_LOCK_FILE = ".leases"
_HEX_DIGITS = 15  # of the digest: the byte offset of a lock has at most 63 bits


class AdapterFileLocks:
    """Locks of versions' files by engine; versions with equal content share their files, and so a lock."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        # One descriptor, never reopened: closing any descriptor of the file drops all POSIX locks of the process.
        self._file = os.open(root / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._holders: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self._deleting: set[str] = set()

    def acquire(self, engine: str, version: Version) -> None:
        """Lock a version's files for an engine; raises `StoreError` while they are being deleted."""
        digest = version.digest
        if digest in self._deleting or not self._lock(digest, fcntl.LOCK_SH):
            raise StoreError(f"Version {digest[:12]} is being deleted from the store; publish the adapter again.")
        self._holders[digest].add((engine, version.engine_name))

    def release(self, engine: str, version: Version) -> None:
        """Release an engine's lock of a version's files."""
        self._drop(version.digest, {(engine, version.engine_name)})

    def release_all(self, engine: str) -> None:
        """Release all locks of an engine, after its process has exited."""
        for digest, holders in list(self._holders.items()):
            self._drop(digest, {holder for holder in holders if holder[0] == engine})

    def holders(self, digest: str) -> list[str]:
        """Return the names of this gateway's engines that lock these files."""
        return sorted({engine for engine, _ in self._holders.get(digest, ())})

    @contextlib.contextmanager
    def deleting(self, digest: str) -> Iterator[None]:
        """Lock files exclusively while they are deleted; raises `StoreError` when any gateway's engine uses them."""
        if holders := self.holders(digest):
            raise StoreError(f"Version {digest[:12]} is still in {', '.join(holders)}; unload it first.")
        if digest in self._deleting or not self._lock(digest, fcntl.LOCK_EX):
            raise StoreError(f"Version {digest[:12]} is in an engine of another gateway; retire it there first.")
        self._deleting.add(digest)
        try:
            yield
        finally:
            self._deleting.discard(digest)
            self._lock(digest, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release all locks."""
        os.close(self._file)

    def _drop(self, digest: str, dropped: set[tuple[str, str]]) -> None:
        holders = self._holders.get(digest, set())
        if holders & dropped and not holders - dropped:
            del self._holders[digest]
            self._lock(digest, fcntl.LOCK_UN)
        holders -= dropped

    def _lock(self, digest: str, kind: int) -> bool:
        try:
            flags = kind if kind == fcntl.LOCK_UN else kind | fcntl.LOCK_NB
            fcntl.lockf(self._file, flags, 1, int(digest[:_HEX_DIGITS], 16))
        except OSError:
            return False
        return True
