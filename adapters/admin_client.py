"""Client of the gateway's admin API, for the trainer and the command line, and where it finds gateway and admin key."""

import json
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx

from adapters.archive import pack
from adapters.errors import AdminError

_TIMEOUT = httpx.Timeout(10.0, read=300.0, write=300.0)  # an upload waits for the engine to load and prove the adapter


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """The gateway's response to a publish: `version` is like `v3`, `warnings` are findings about the adapter, and
    `converted` lists the changes that brought it into PEFT's layout.
    """

    name: str
    version: str
    digest: str
    state: str
    warnings: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        """Parse the gateway's response."""
        details = {field: tuple(answer.get(field, ())) for field in ("warnings", "converted")}
        return cls(answer["name"], answer["version"], answer["digest"], answer["state"], **details)


class AdminClient:
    """Sends requests to `{gateway_url}/admin/v1` with an admin key; every failure is an `AdminError` with the gateway's
    message.
    """

    def __init__(self, gateway_url: str, admin_key: str, whence: str = "the address given") -> None:
        self._url = gateway_url.rstrip("/")
        self._whence = whence
        try:
            self._http = httpx.Client(
                base_url=self._url,
                headers={"authorization": f"Bearer {admin_key}"},
                timeout=_TIMEOUT,
                trust_env=False,
                verify=ssl.create_default_context(),  # the system's authorities, or those of SSL_CERT_FILE
            )
        except httpx.InvalidURL as error:
            raise AdminError(
                f"'{gateway_url}' is not an address ({error}); write it like http://127.0.0.1:8080."
            ) from error
        except UnicodeEncodeError as error:
            raise AdminError("The admin key holds characters that no key has; copy it again.") from error

    def publish(
        self,
        name: str,
        directory: Path,
        *,
        convert: bool = False,
        opened: Callable[[BinaryIO], AbstractContextManager[BinaryIO]] | None = None,
    ) -> PublishedVersion:
        """Pack and upload an adapter directory, or upload an archive of one (tar.gz, zip) as it is; returns once the
        gateway has checked it and the engine has loaded it.

        `convert` has the gateway bring another tool's adapter into PEFT's layout. `opened` may wrap the archive's file
        to show progress while it is read.
        """
        with (
            tempfile.TemporaryDirectory() as scratch,
            _archive_of(directory, Path(scratch), convert=convert).open("rb") as raw,
            opened(raw) if opened else raw as file,
        ):
            answer = self.request(
                "POST",
                "/adapters",
                data={"name": name} | ({"convert": "true"} if convert else {}),
                files={"file": ("adapter.tar.gz", file, "application/gzip")},
            )
        return PublishedVersion.read(answer)

    def publish_source(self, name: str, source: str, *, convert: bool = False) -> PublishedVersion:
        """Have the gateway fetch an adapter from an allowed source (`adapter_sources`)."""
        body = {"name": name, "source": source} | ({"convert": True} if convert else {})
        return PublishedVersion.read(self.request("POST", "/adapters", json=body))

    def promote(
        self, name: str, version: str, *, expect_live: str | None = None, override: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Make a version live; new requests for `name` go to it at once.

        `override` ("reason", "by") replaces a missing or invalid verdict.
        """
        given = {"expect_live": expect_live, "override": override}
        body = {"version": version} | {field: value for field, value in given.items() if value}
        return self.request("POST", f"/adapters/{name}/promote", json=body)

    def promote_published(
        self, published: PublishedVersion, *, override: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Promote a version that has just been published; the error of a refusal says that it stays published."""
        try:
            return self.promote(published.name, published.version, override=override)
        except AdminError as error:
            subject = f"{published.name}@{published.version}"
            raise AdminError(f"{subject} is published and ready, but not live: {error}", error.status) from error

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """GET a path below /admin/v1; parameters that are None are left out."""
        return self.request(
            "GET", path, params={name: value for name, value in parameters.items() if value is not None}
        )

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send one request below /admin/v1 and return the JSON object of the response."""
        try:
            response = self._http.request(method, f"/admin/v1{path}", **options)
        except httpx.HTTPError as error:
            raise AdminError(
                f"No gateway answers at {self._url} ({error}), {self._whence}; name another with --gateway or "
                "TURNTABLE_GATEWAY_URL, or start one with `turntable serve`."
            ) from error
        if not response.is_success:
            raise AdminError(_message(response), response.status_code)
        try:
            return dict(response.json())
        except (ValueError, TypeError) as error:
            raise AdminError(
                f"What answers at {self._url} is not a gateway; check the address.", response.status_code
            ) from error

    def download(self, path: str, **options: Any) -> Iterator[bytes]:
        """Stream the response of a GET below /admin/v1, chunk by chunk."""
        try:
            with self._http.stream("GET", f"/admin/v1{path}", **options) as response:
                if not response.is_success:
                    response.read()
                    raise AdminError(_message(response), response.status_code)
                yield from response.iter_bytes()
        except httpx.HTTPError as error:
            raise AdminError(f"The gateway at {self._url} did not answer to the end ({error}); try again.") from error

    def close(self) -> None:
        """Close the connections to the gateway."""
        self._http.close()

    def __enter__(self) -> "AdminClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _archive_of(path: Path, scratch: Path, *, convert: bool) -> Path:
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".zip")):
        return path
    return pack(path, scratch / "adapter.tar.gz", convert=convert)


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The gateway answered HTTP {response.status_code} without an explanation; look at its log."


KEY_FILE = "admin.key"
ADDRESS_FILE = "gateway.json"
"""In the data directory, while a gateway runs on it: `url`, `admin_url`, `pid`, `started`."""
URL_VARIABLE = "TURNTABLE_GATEWAY_URL"
DEFAULT_URL = "http://127.0.0.1:8080"
_CLOCK_SLACK_S = 60.0


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """Addresses and process of the gateway that runs on a data directory."""

    url: str
    admin_url: str
    pid: int
    started: float
    """Seconds since 1970."""


def connect(gateway_url: str, data_dir: Path) -> AdminClient:
    """A client of the gateway at an address, or of the one that runs on the data directory when the address is empty.

    The key is that of `admin_key`; raises `AdminError` without any.
    """
    url = gateway_address(data_dir, gateway_url)
    return AdminClient(url, admin_key(data_dir), whence(url, data_dir))


def admin_key(data_dir: Path) -> str:
    """The admin key from TURNTABLE_ADMIN_KEY, else from `<data dir>/admin.key`; raises `AdminError` without any."""
    return os.environ.get("TURNTABLE_ADMIN_KEY") or _stored_key(data_dir / KEY_FILE)


def gateway_address(data_dir: Path, given: str = "") -> str:
    """The gateway's address: as given, else TURNTABLE_GATEWAY_URL, else that of the gateway that runs on the data
    directory, else the default of `turntable serve`.
    """
    if address := given or os.environ.get(URL_VARIABLE):
        return address
    running = running_gateway(data_dir)
    return running.admin_url if running else DEFAULT_URL


def whence(gateway_url: str, data_dir: Path) -> str:
    """Where an address comes from, for the error when nothing answers there."""
    path, running = data_dir / ADDRESS_FILE, running_gateway(data_dir)
    if os.environ.get(URL_VARIABLE) == gateway_url:
        return f"the address in {URL_VARIABLE}"
    if running and gateway_url in (running.url, running.admin_url):
        return f"the address in {path}"
    if gateway_url == DEFAULT_URL:
        return f"the default, as no gateway runs on the data directory {data_dir}"
    return "the address given"


def running_gateway(data_dir: Path) -> RunningGateway | None:
    """The gateway that runs on this data directory on this machine; None when none runs."""
    try:
        written = json.loads((data_dir / ADDRESS_FILE).read_text(encoding="utf-8"))
        running = RunningGateway(
            str(written["url"]), str(written["admin_url"]), int(written["pid"]), float(written["started"])
        )
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
    # The id may belong to another process by now, which started after the gateway wrote its address.
    began = _began(gateway.pid)
    return began is None or began <= gateway.started + _CLOCK_SLACK_S


def _began(pid: int) -> float | None:
    """Start time of a process in seconds since 1970; None where /proc does not exist."""
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
