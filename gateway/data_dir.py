"""Data directory: lock it for one gateway at a time, and create files in it atomically."""

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
    """Another gateway uses the data directory or its SQLite file; the message names it and the fix."""


class DataDirLock:
    """Locks held by this process; no other gateway uses the data while it runs."""

    def __init__(self, locks: list[int]) -> None:
        self._locks = locks

    def set_address(self, address: str) -> None:
        """Write this gateway's address into the lock files, for the error message of another that is started."""
        for lock in self._locks:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()}, {address}\n".encode(), 0)


@contextlib.contextmanager
def lock_data_dir(data_dir: Path, database_url: str) -> Iterator[DataDirLock]:
    """Lock a data directory and the SQLite file; raises `DataDirInUseError` when another gateway has locked one.

    Gateways with their own data directories may share a PostgreSQL database.
    """
    with contextlib.ExitStack() as stack:
        locks = [_lock(stack, data_dir / LOCK_FILE, f"the data directory {data_dir}", "--data-dir")]
        if (file := _sqlite_file(database_url)) is not None and file.parent.is_dir():
            lock_file = file.with_name(f"{file.name}.lock")
            locks.append(_lock(stack, lock_file, f"the SQLite file {file}", "database_url, such as a PostgreSQL"))
        held = DataDirLock(locks)
        held.set_address("which is starting")
        yield held


def _lock(stack: contextlib.ExitStack, path: Path, resource: str, option: str) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    stack.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "process unknown"
        raise DataDirInUseError(
            f"Another gateway uses {resource} ({holder}); stop it first, or give this one another {option}."
        ) from error
    return lock


def _sqlite_file(database_url: str) -> Path | None:
    try:
        url = make_url(database_url)
    except ArgumentError:  # reported when the database is opened
        return None
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database)).resolve()


def create_whole(path: Path, content: str) -> bool:
    """Create a file atomically with its content, readable by its owner only; False when the file exists.

    Other processes see the whole file or none, also after a power failure.
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
