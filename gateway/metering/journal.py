"""The journal: an append-only file that takes a line in one system call, so that a request waits for no database.

    <root>/<run>/lock           held by the process that writes here, for as long as it lives
    <root>/<run>/00000001       segments of whole lines; each is deleted once all its lines are in the database

Written lines survive a killed process. A folder whose lock is free belonged to a dead process,
and the next start folds it. One thread appends and one reads; they may be different threads.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_SEGMENT_BYTES = 4 << 20
_READ_BYTES = 256 << 10
_UNSEEN = "new-"


class JournalFullError(Exception):
    """The journal holds as many bytes that are not folded as it may."""


class LedgerJournal:
    """One process's journal below `root`, of at most `most_bytes` that are not folded yet."""

    def __init__(self, root: Path, *, most_bytes: int) -> None:
        self.folder = root / secrets.token_hex(8)
        unseen = root / f"{_UNSEEN}{self.folder.name}"
        unseen.mkdir(parents=True)
        self._lock = _locked(unseen)
        assert self._lock is not None, "no other process knows this folder"
        unseen.rename(self.folder)  # from now on others see it, and that it is locked
        self._most_bytes = most_bytes
        self._number = 0
        self._segment = -1
        self._path = ""
        self._segment_bytes = 0
        self._begin_segment()
        self.written_bytes = 0
        """Bytes appended so far."""
        self.reader = SegmentReader(self.folder)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are not folded yet."""
        return self.written_bytes - self.reader.folded_bytes

    def require_room(self) -> None:
        """Raise `JournalFullError` at the limit, `FileNotFoundError` when the segment was removed: its lines would
        never be folded.
        """
        os.stat(self._path)  # noqa: PTH116 - for every request, and a Path costs as much again
        if self.written_bytes - self.reader.folded_bytes > self._most_bytes:
            raise JournalFullError

    def append(self, line: bytes) -> None:
        """Append a line that ends with a line feed, wholly or not at all; raises `OSError`."""
        if self._segment_bytes > _SEGMENT_BYTES:
            self._begin_segment()
        taken = os.write(self._segment, line)
        if taken != len(line):  # the disk is full: what follows must not stand behind half a line
            os.ftruncate(self._segment, self._segment_bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._segment_bytes += taken
        self.written_bytes += taken

    def close(self) -> None:
        """Stop writing; a journal that is wholly folded leaves nothing behind."""
        os.close(self._segment)
        if not self.waiting_bytes:
            _remove(self.folder)
        assert self._lock is not None, "closed once"
        os.close(self._lock)

    def _begin_segment(self) -> None:
        self._number += 1
        path = self.folder / f"{self._number:08}"
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        if self._segment >= 0:
            os.close(self._segment)
        self._segment, self._segment_bytes, self._path = opened, 0, str(path)


class SegmentReader:
    """Reads the segments of a journal's folder, from the last committed line on."""

    def __init__(self, folder: Path, *, is_abandoned: bool = False) -> None:
        self.folder = folder
        self.run = folder.name
        self._is_abandoned = is_abandoned
        self._offset = 0
        self._read_bytes = 0
        self.folded_bytes = 0
        """Bytes committed so far."""

    def read(self) -> bytes:
        """Return the next whole lines; empty when there are none now."""
        while segments := _segments(self.folder):
            is_ended = self._is_abandoned or len(segments) > 1
            with segments[0].open("rb", buffering=0) as file:
                file.seek(self._offset)
                data = file.read(_READ_BYTES)
                while b"\n" not in data and (more := file.read(_READ_BYTES)):
                    data += more
            # An ended segment without a final line feed is damaged; its last line is kept, to be rejected.
            lines = data[: data.rfind(b"\n") + 1] or (data if is_ended else b"")
            if lines or len(segments) == 1:
                self._read_bytes = len(lines)
                return lines
            segments[0].unlink()  # a later one has begun, so nothing is added to this one
            self._offset = 0
        return b""

    def commit(self) -> None:
        """Mark the lines that `read` returned last as being in the database."""
        self._offset += self._read_bytes
        self.folded_bytes += self._read_bytes
        self._read_bytes = 0


def abandoned_journals(root: Path) -> Iterator[SegmentReader]:
    """Yield the journals of dead processes below `root`; each is removed when the caller asks for the next."""
    for folder in _folders(root):
        lock = _locked(folder)
        if lock is None:
            continue
        yield SegmentReader(folder, is_abandoned=True)
        _remove(folder)
        os.close(lock)


def live_journals(root: Path) -> list[str]:
    """Return the runs whose journals below `root` are written by live processes."""
    found = []
    for folder in _folders(root):
        lock = _locked(folder)
        if lock is None:
            found.append(folder.name)
        else:
            os.close(lock)
    return found


def _folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.glob("*/") if not folder.name.startswith(_UNSEEN))


def _locked(folder: Path) -> int | None:
    """Lock a journal's folder and return the lock's file descriptor; None when another process holds it."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
