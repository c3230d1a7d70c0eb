"""Canaries: keys and prompts that no log, metric, table, journal, error or audit entry may ever hold.

All gateways of the suite are run with marked keys. When one has ended, its data directory is searched for the mark;
when the run has ended, so is every record that was logged in this process, and what the served gateway wrote.
"""

import base64
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

MARK = "c4n4ry7f3a91"
ADMIN_KEY = f"tt-{MARK}-the-admin-key-of-all-tests"
ENGINE_KEY = f"the-engines-own-{MARK}"
PROMPT = f"the prompt {MARK} is nobody's business"
_KEPT_ON_PURPOSE = ("admin.key",)


def traces(content: bytes, mark: str = MARK) -> list[str]:
    """In which spellings a mark stands in some bytes: plain, in hexadecimal, in base64 wherever it begins."""
    raw = mark.encode()
    spellings = {"plain": raw, "backwards": raw[::-1], "hexadecimal": raw.hex().encode()}
    for skipped in range(3):
        coded = base64.b64encode(bytes(skipped) + raw)
        spellings[f"base64+{skipped}"] = coded[4 if skipped else 0 : len(coded) - 4]
    return [name for name, spelling in spellings.items() if spelling in content]


def leaks(directory: Path, mark: str = MARK) -> list[str]:
    """The files below a directory that hold a mark, each with its spellings."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name not in _KEPT_ON_PURPOSE)
    found = ((path, traces(path.read_bytes(), mark)) for path in files)
    return [f"{path}: {', '.join(spellings)}" for path, spellings in found if spellings]


class LogWatch(logging.Handler):
    """Remembers which records of the log held a mark, their traces included."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(pathname)s:%(lineno)d %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one record."""
        if traces(self.format(record).encode(errors="replace")):
            self.found.append(f"{record.name} {record.pathname}:{record.lineno}")


def watched_logs() -> Iterator[LogWatch]:
    """All that is logged in this process until the end; raises when any of it held a mark."""
    watch = LogWatch()
    logging.getLogger().addHandler(watch)
    yield watch
    logging.getLogger().removeHandler(watch)
    assert not watch.found, f"secrets in the log: {watch.found}"


def assert_none(texts: Iterable[bytes | str], mark: str = MARK) -> None:
    """Fail when one of the texts holds a mark, with what is around it."""
    for text in texts:
        content = text.encode() if isinstance(text, str) else text
        assert not traces(content, mark), content[max(0, content.find(mark.encode()) - 200) :][:600]
