"""Secrets kept in files of the data directory, readable by their owner alone: the admin key, the pepper."""

import secrets
from pathlib import Path

from gateway.data_dir import create_whole
from gateway.keys.token import KEY_PREFIX

ADMIN_KEY_FILE = "admin.key"
MIN_CHARS = 32
"""Of the admin key and of the pepper: what is shorter can be guessed, or was cut off."""


class WeakSecretError(Exception):
    """A secret is too short to be one; the message says how to come by a better one."""


def load_or_create_admin_key(data_dir: Path) -> tuple[str, bool]:
    """The key kept in `<data dir>/admin.key` (mode 0600), and whether it was made just now."""
    return load_or_create_secret(data_dir / ADMIN_KEY_FILE, KEY_PREFIX + secrets.token_urlsafe(32))


def load_or_create_secret(path: Path, fresh: str) -> tuple[str, bool]:
    """The secret kept in a file: the one that is there, else `fresh`; and whether it was made just now."""
    is_new = not path.exists() and create_whole(path, fresh + "\n")
    return path.read_text(encoding="utf-8").strip(), is_new


def strong_admin_key(key: str, where: str) -> str:
    """The key, unless it is too short; raises `WeakSecretError`."""
    if len(key) < MIN_CHARS:
        raise WeakSecretError(
            f"The admin key in {where} has {len(key)} characters and needs {MIN_CHARS} or more, or it can be guessed. "
            "Make one with `openssl rand -hex 32`, or remove it, and one is made at start."
        )
    return key
