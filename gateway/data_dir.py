"""The data directory: one gateway at a time works in it, and what it keeps there is there whole or not at all."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

LOCK_FILE = "gateway.lock"


class DataDirInUseError(Exception):
    """Another gateway works here; the message names it and says what to do."""


class DataDirLock:
    """Proof that no other gateway works on some data, for as long as this process lives."""

    def __init__(self, locks: list[int]) -> None:
        self._locks = locks

    def tell(self, address: str) -> None:
        """Let others that are refused know where this gateway is."""
        for lock in self._locks:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()}, {address}\n".encode(), 0)


@contextlib.contextmanager
def lock_data_dir(data_dir: Path, database_url: str) -> Iterator[DataDirLock]:
    """Hold a data directory, and an SQLite file wherever that lies; raises `InUseError` when another gateway does.

    Gateways with directories of their own may share a PostgreSQL.
    """
    with contextlib.ExitStack() as held:
        locks = [_hold(held, data_dir / LOCK_FILE, f"the data directory {data_dir}", "--data-dir")]
        if (file := _sqlite_file(database_url)) is not None and file.parent.is_dir():
            lock_file = file.with_name(f"{file.name}.lock")
            locks.append(_hold(held, lock_file, f"the SQLite file {file}", "database_url, such as a PostgreSQL"))
        proof = DataDirLock(locks)
        proof.tell("which is starting")
        yield proof


def _hold(held: contextlib.ExitStack, path: Path, what: str, instead: str) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    held.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = os.pread(lock, 200, 0).decode(errors="replace").strip() or "process unknown"
        raise DataDirInUseError(
            f"Another gateway works on {what} ({who}); stop it first, or give this one another {instead}."
        ) from error
    return lock


def _sqlite_file(database_url: str) -> Path | None:
    try:
        url = make_url(database_url)
    except ArgumentError:  # whoever opens it says so
        return None
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database)).resolve()


def create_whole(path: Path, content: str) -> bool:
    """Make a file, readable by its owner alone, with its content in it from the first moment; False when there is one.

    Whoever looks meanwhile, another gateway that starts or one that starts after a power cut, sees all of it or none.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        try:
            path.hardlink_to(scratch)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if path.exists():
                return False
            scratch.rename(path)
        _sync(path.parent)
        return True
    finally:
        scratch.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
