"""Logs of a managed engine: one file per start, the last ones kept, and what the newest says about a failure."""

import contextlib
import re
from pathlib import Path

_KEPT = 5
_READ_BYTES = 64_000
_ERROR = re.compile(r"^(?:[\w.]*(?:Error|Exception)(?::.*)?|.*(?:out of memory|Segmentation fault).*)$")
_PREFIX = re.compile(r"^(?:\(\w[^)]*\) )?(?:(?:ERROR|CRITICAL|WARNING|INFO) [\d-]+ [\d:]+ \[[^]]*\] )?")
# What follows from another failure, and explains nothing.
_CONSEQUENCE = ("EngineDeadError", "CancelledError", "ChildProcessError", "Engine core initialization failed")


def rotate(log: Path) -> None:
    """Make room for a new log: engine.log becomes engine.1.log, and so on; the oldest goes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if not log.exists() or not log.stat().st_size:
        return
    for number in range(_KEPT - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            _numbered(log, number).replace(_numbered(log, number + 1))
    log.replace(_numbered(log, 1))


def last_error(log: Path) -> str:
    """The newest line that names an error and is not merely a consequence of one, without vLLM's prefix."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _READ_BYTES))
        lines = [_PREFIX.sub("", line).strip() for line in file.read().decode(errors="replace").splitlines()]
        errors = [line for line in lines if _ERROR.match(line)]
        causes = [line for line in errors if not any(word in line for word in _CONSEQUENCE)]
        if found := causes or errors:
            return found[-1][:300]
    return "it left no error in its log"


def _numbered(log: Path, number: int) -> Path:
    return log.with_suffix(f".{number}{log.suffix}")
