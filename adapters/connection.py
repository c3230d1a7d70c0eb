"""Where an operator's command finds the gateway and its admin key."""

import os
from pathlib import Path

from adapters.client import AdminClient
from adapters.errors import AdminError

KEY_FILE = "admin.key"


def connect(gateway_url: str, data_dir: Path) -> AdminClient:
    """A client with the key from TURNTABLE_ADMIN_KEY, else from `<data dir>/admin.key`, left by a local gateway."""
    return AdminClient(gateway_url, admin_key(data_dir))


def admin_key(data_dir: Path) -> str:
    """The admin key from TURNTABLE_ADMIN_KEY, else from `<data dir>/admin.key`; raises `AdminError` without any."""
    return os.environ.get("TURNTABLE_ADMIN_KEY") or _stored_key(data_dir / KEY_FILE)


def _stored_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise AdminError(f"There is no admin key: set TURNTABLE_ADMIN_KEY, or make {path} readable.") from error
