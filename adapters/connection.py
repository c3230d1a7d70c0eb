"""Where an operator's command finds the gateway and its admin key."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from adapters.client import AdminClient
from adapters.errors import AdminError

KEY_FILE = "admin.key"
ADDRESS_FILE = "gateway.json"
"""In the data directory, while a gateway runs on it: `url`, `admin_url`, `pid`, `started`."""
URL_VARIABLE = "TURNTABLE_GATEWAY_URL"
DEFAULT_URL = "http://127.0.0.1:8080"
_CLOCK_SLACK_S = 60.0


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """Where the gateway on a data directory said that it listens."""

    url: str
    admin_url: str
    pid: int
    started: float
    """Seconds since 1970."""


def connect(gateway_url: str, data_dir: Path) -> AdminClient:
    """A client with the key from TURNTABLE_ADMIN_KEY, else from `<data dir>/admin.key`, left by a local gateway."""
    return AdminClient(gateway_url, admin_key(data_dir), whence(gateway_url, data_dir))


def admin_key(data_dir: Path) -> str:
    """The admin key from TURNTABLE_ADMIN_KEY, else from `<data dir>/admin.key`; raises `AdminError` without any."""
    return os.environ.get("TURNTABLE_ADMIN_KEY") or _stored_key(data_dir / KEY_FILE)


def gateway_address(data_dir: Path) -> str:
    """Where operators find the gateway: TURNTABLE_GATEWAY_URL, else the one that runs on the data directory, else the
    address that `turntable serve` listens on by default.
    """
    running = running_gateway(data_dir)
    return os.environ.get(URL_VARIABLE) or (running.admin_url if running else DEFAULT_URL)


def whence(gateway_url: str, data_dir: Path) -> str:
    """How a command came to this address, for who wonders why nothing answers there."""
    path, running = data_dir / ADDRESS_FILE, running_gateway(data_dir)
    if os.environ.get(URL_VARIABLE) == gateway_url:
        return f"the address in {URL_VARIABLE}"
    if running and gateway_url in (running.url, running.admin_url):
        return f"the address in {path}"
    if gateway_url == DEFAULT_URL:
        return f"the default, as no gateway runs on the data directory {data_dir}"
    return "the address given"


def running_gateway(data_dir: Path) -> RunningGateway | None:
    """The gateway that runs on this data directory on this machine; None when there is none, or it died."""
    try:
        said = json.loads((data_dir / ADDRESS_FILE).read_text(encoding="utf-8"))
        running = RunningGateway(str(said["url"]), str(said["admin_url"]), int(said["pid"]), float(said["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return running if _runs(running) else None


def _runs(gateway: RunningGateway) -> bool:
    try:
        os.kill(gateway.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    # Another process may have got the number since; it began later than the gateway wrote its address.
    began = _began(gateway.pid)
    return began is None or began <= gateway.started + _CLOCK_SLACK_S


def _began(pid: int) -> float | None:
    """When a process began, in seconds since 1970; None where the system does not say."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
        booted = int(next(line.split()[1] for line in lines if line.startswith("btime ")))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def _stored_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise AdminError(f"There is no admin key: set TURNTABLE_ADMIN_KEY, or make {path} readable.") from error
