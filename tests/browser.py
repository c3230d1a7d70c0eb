"""A real headless browser: the Chromium that npm brought, spoken to over its DevTools protocol."""

import base64
import json
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.conftest import ROOT

MODULES = ROOT / "tests" / "clients" / "node" / "node_modules"
TIMEOUT_S = 60
_PACKED = MODULES / "@sparticuz" / "chromium" / "bin"
_LIBRARIES = ("al2023", "swiftshader", "fonts")
_UNPACK = (
    "const {brotliDecompressSync: open} = require('zlib'), fs = require('fs');"
    "fs.writeFileSync(process.argv[2], open(fs.readFileSync(process.argv[1])), {mode: 0o755})"
)
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run")


class Page:
    """One tab: what it loaded and what went wrong in it is written down from the start."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._sent = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the protocol; events that come meanwhile are noted."""
        self._sent += 1
        self._connection.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=TIMEOUT_S))
            if message.get("id") == self._sent:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            self._note(message["method"], message["params"])

    def open(self, url: str) -> None:
        """Load a page and wait until it is whole."""
        assert not self.call("Page.navigate", url=url).get("errorText"), url
        self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of what it promises."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Return once the condition holds in the page."""
        for _ in range(TIMEOUT_S * 20):
            if self.evaluate(f"new Promise(done => setTimeout(() => done(Boolean({condition})), 50))"):
                return
        raise AssertionError(f"never held: {condition}\n{self.evaluate('document.body.innerText')}\n{self.errors}")

    def resize(self, width: int, height: int) -> None:
        """Give the page the width and height of a screen; a narrow one is that of a phone."""
        size: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, scheme: str) -> None:
        """Prefer the `light` or the `dark` colour scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, width: int, height: int) -> bytes:
        """Take a PNG of the page from its top left corner."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(taken["data"])

    def press(self, key: str) -> None:
        """Press and release a key, as a keyboard does."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def type(self, text: str) -> None:
        """Put text where the cursor is."""
        self.call("Input.insertText", text=text)

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] == "error":
                self.errors.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(parameters["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])


@contextmanager
def running_browser() -> Iterator[str]:
    """The address of a browser's protocol while it runs, on a profile of its own."""
    folder = _unpacked()
    environment = {
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "FONTCONFIG_FILE": str(folder / "fonts.conf"),
        "HOME": str(folder),
    }
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        command = [str(folder / "chromium"), *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stderr is not None
            lines: list[str] = []
            try:
                for line in process.stderr:
                    lines.append(line)
                    if line.startswith("DevTools listening on ws://"):
                        break
                else:
                    raise AssertionError("the browser did not start:\n" + "".join(lines))
                drain = threading.Thread(target=lambda: list(process.stderr or ()), daemon=True)
                drain.start()
                yield "http://" + line.split("//")[1].partition("/")[0]
            finally:
                process.kill()


@contextmanager
def new_page(browser: str) -> Iterator[Page]:
    """A new tab, closed in the end."""
    target = httpx.put(f"{browser}/json/new?about:blank", trust_env=False).json()
    with connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None) as connection:
        yield Page(connection)
    httpx.get(f"{browser}/json/close/{target['id']}", trust_env=False)


def _unpacked() -> Path:
    """The browser with its libraries and a font, unpacked once per installed version."""
    assert _PACKED.is_dir(), "the browser is not installed; run `make clients`"
    version = json.loads((_PACKED.parent / "package.json").read_text())["version"]
    folder = MODULES / f".chromium-{version}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=MODULES, prefix=".unpacking-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            _open(_PACKED / "chromium.br", made / "chromium")
            for name in _LIBRARIES:
                _open(_PACKED / f"{name}.tar.br", made / f"{name}.tar")
                with tarfile.open(made / f"{name}.tar") as archive:
                    archive.extractall(made, filter="data")
                (made / f"{name}.tar").unlink()
            (made / "fonts.conf").write_text(f"<fontconfig><dir>{folder}/fonts</dir></fontconfig>", encoding="utf-8")
            made.rename(folder)
    return folder


def _open(packed: Path, target: Path) -> None:
    node = MODULES / ".bin" / "node"
    subprocess.run([node, "-e", _UNPACK, packed, target], check=True)
