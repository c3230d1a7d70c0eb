"""Hashes of large files, kept in a small file beside them and trusted while size and modification time are the same."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adapters.manifest import file_sha256

CACHE_FILE = ".turntable-sha256.json"


def cached_sha256(directory: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 in hex of each file by name; only files that are new or changed are read.

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
