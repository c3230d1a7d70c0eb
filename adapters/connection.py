"""Where an operator's command finds the gateway and its admin key."""

import os
from pathlib import Path

from adapters.client import AdminClient
from adapters.errors import AdminError

KEY_FILE = "admin.key"


def connect(gateway_url: str, data_dir: Path) -> AdminClient:
    """A client with the key from TURNTABLE_ADMIN_KEY, else from `<data dir>/admin.key`, left by a local gateway."""
    key = os.environ.get("TURNTABLE_ADMIN_KEY") or _stored_key(data_dir / KEY_FILE)
    return AdminClient(gateway_url, key)


def _stored_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise AdminError(f"There is no admin key: set TURNTABLE_ADMIN_KEY, or make {path} readable.") from error
