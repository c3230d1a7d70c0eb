"""Secrets kept in files of the data directory, readable by their owner alone: the admin key, the pepper."""

import os
import secrets
from pathlib import Path

from gateway.keys.token import KEY_PREFIX

ADMIN_KEY_FILE = "admin.key"


def load_or_create_admin_key(data_dir: Path) -> tuple[str, bool]:
    """The key kept in `<data dir>/admin.key` (mode 0600), and whether it was made just now."""
    return load_or_create_secret(data_dir / ADMIN_KEY_FILE, KEY_PREFIX + secrets.token_urlsafe(32))


def load_or_create_secret(path: Path, fresh: str) -> tuple[str, bool]:
    """The secret kept in a file: the one that is there, else `fresh`; and whether it was made just now."""
    try:
        return path.read_text(encoding="utf-8").strip(), False
    except FileNotFoundError:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(fresh + "\n")
    return fresh, True
