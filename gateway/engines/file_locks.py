"""Leases on stored files: a version's files stay while any engine may still read them.

vLLM reads an adapter again within a step when its cache has dropped it, and dies when the files are gone. Leases are
counted here per engine, and held as byte locks on one file of the store, so that gateways in other processes see them
and a killed gateway holds none.
"""

import contextlib
import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from adapters import StoreError, Version

_FILE = ".leases"
_DIGITS = 15  # of the digest: a byte offset within the 63 bits that a lock may have


class AdapterFileLocks:
    """Which engines may read which versions' files; equal content under two names is one set of files."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        # One descriptor for good: POSIX drops a process's locks as soon as it closes any descriptor of the file.
        self._file = os.open(root / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._holders: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self._deleting: set[str] = set()

    def take(self, engine: str, version: Version) -> None:
        """Hold a version's files for an engine; raises `StoreError` while somebody deletes them."""
        digest = version.digest
        if digest in self._deleting or not self._lock(digest, fcntl.LOCK_SH):
            raise StoreError(f"Version {digest[:12]} is being deleted from the store; publish the adapter again.")
        self._holders[digest].add((engine, version.engine_name))

    def release(self, engine: str, version: Version) -> None:
        """An engine has no use for the files under this name any more."""
        self._drop(version.digest, {(engine, version.engine_name)})

    def release_all(self, engine: str) -> None:
        """An engine ended, and its memory with it."""
        for digest, holders in list(self._holders.items()):
            self._drop(digest, {holder for holder in holders if holder[0] == engine})

    def _drop(self, digest: str, gone: set[tuple[str, str]]) -> None:
        held = self._holders.get(digest, set())
        if held & gone and not held - gone:
            del self._holders[digest]
            self._lock(digest, fcntl.LOCK_UN)
        held -= gone

    def holders(self, digest: str) -> list[str]:
        """Names of this gateway's engines that hold a version."""
        return sorted({engine for engine, _ in self._holders.get(digest, ())})

    @contextlib.contextmanager
    def deleting(self, digest: str) -> Iterator[None]:
        """Hold a version alone while its files go; raises `StoreError` when an engine of any gateway has it."""
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
        """Let go of everything."""
        os.close(self._file)

    def _lock(self, digest: str, kind: int) -> bool:
        try:
            flags = kind if kind == fcntl.LOCK_UN else kind | fcntl.LOCK_NB
            fcntl.lockf(self._file, flags, 1, int(digest[:_DIGITS], 16))
        except OSError:
            return False
        return True
