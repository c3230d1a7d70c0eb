"""The refusal log: requests that got no ledger row, with the reason, in bounded files of the data directory.

    <data dir>/refusals/<kind>.jsonl       the newest
    <data dir>/refusals/<kind>.old.jsonl   those before; replaced when the newest file is full

Each kind has files of its own, so that a flood of wrong keys drives out nothing but wrong keys. Requests only add to
memory; a thread writes a few times a second, so a killed process loses the last ones. No entry holds a prompt or a key.
"""

import contextlib
import logging
import re
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.25
MOST_FILE_BYTES = 1 << 20
MOST_PENDING = 2_000
"""Entries of a kind between two writes; of more, the newest are kept."""
MOST_MESSAGE = 300
CLIENT_GONE = 499
_SECRET = re.compile(r"\b(tt|sk)-[\w-]{6,}")
_KINDS = {CLIENT_GONE: "cancelled", 401: "keys", 403: "keys", 404: "not_found", 405: "not_found", 429: "limits"}
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Refusal:
    """One request that was refused, failed or was cancelled before it had a row."""

    id: str
    client_id: str | None
    at_us: int
    status: int
    code: str | None
    message: str
    api: str
    key_id: str | None = None
    tenant: str | None = None
    model: str | None = None
    version: str | None = None
    stream: bool | None = None
    took_us: int | None = None

    @property
    def kind(self) -> str:
        """The file it is written to."""
        if self.status in _KINDS:
            return _KINDS[self.status]
        if self.status < 500:
            return "invalid"
        return "unavailable" if self.status == _UNAVAILABLE else "failed"


def without_secrets(text: str) -> str:
    """Make an error message fit for the log: one line of limited length, with anything like a key masked."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * MOST_MESSAGE])
    return _SECRET.sub(r"\1-...", line)[:MOST_MESSAGE]


class RefusalLog:
    """Collects refusals on the event loop, writes them from a thread, and finds them again after a restart."""

    def __init__(self, folder: Path, most_file_bytes: int = MOST_FILE_BYTES) -> None:
        self._folder = folder
        self._most_file_bytes = most_file_bytes
        self._pending: dict[str, deque[Refusal]] = defaultdict(lambda: deque(maxlen=MOST_PENDING))
        self._writing = threading.Lock()

    def add(self, refusal: Refusal) -> None:
        """Add a refusal in memory; it is written by `flush`."""
        self._pending[refusal.kind].append(refusal)

    def flush(self) -> None:
        """Write the refusals collected so far; on a disk error they are dropped and logged."""
        with self._writing:
            for kind, waiting in list(self._pending.items()):
                lines = []
                with contextlib.suppress(IndexError):
                    while True:
                        lines.append(_line(waiting.popleft()))
                if not lines:
                    continue
                try:
                    self._append(kind, b"".join(lines))
                except OSError as error:
                    log.warning("refusals of kind %s cannot be written: %s", kind, error.strerror)

    def find(self, request_id: str) -> list[Refusal]:
        """Return the refusals of a request id, ours or the client's own."""
        wanted = orjson.dumps(request_id)
        return [refusal for refusal in self._read(wanted) if request_id in (refusal.id, refusal.client_id)]

    def all(self) -> Iterator[Refusal]:
        """Yield all kept refusals, in no order."""
        return self._read(b"")

    def erase_tenant(self, tenant: str, pseudonym: str) -> None:
        """Replace a tenant's name by its pseudonym and delete its key ids."""
        self.flush()
        with self._writing:
            for path in self._files():
                kept = [
                    replace(refusal, tenant=pseudonym, key_id=None) if refusal.tenant == tenant else refusal
                    for refusal in _refusals(path.read_bytes())
                ]
                scratch = path.with_suffix(".part")
                scratch.write_bytes(b"".join(map(_line, kept)))
                scratch.replace(path)

    def _append(self, kind: str, lines: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{kind}.jsonl"
        with path.open("ab+") as file:
            size = file.tell()
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # a process was killed in the middle of a line
                    lines = b"\n" + lines
            file.write(lines[-self._most_file_bytes :])
            size += len(lines)
        if size >= self._most_file_bytes:
            path.replace(self._folder / f"{kind}.old.jsonl")

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def _read(self, wanted: bytes) -> Iterator[Refusal]:
        self.flush()
        for path in self._files():
            with self._writing:
                content = path.read_bytes() if path.exists() else b""
            if wanted in content:
                yield from _refusals(content, wanted)


def _line(refusal: Refusal) -> bytes:
    return orjson.dumps(asdict(refusal), option=orjson.OPT_APPEND_NEWLINE)


def _refusals(content: bytes, wanted: bytes = b"") -> Iterator[Refusal]:
    for line in content.splitlines():
        if wanted in line:
            with contextlib.suppress(ValueError, TypeError):
                document: dict[str, Any] = orjson.loads(line)
                yield Refusal(**document)
