"""A server that speaks the model hub's API, over folders: revisions, listings, and downloads by way of a redirect."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class Hub:
    """One repository; `revisions` maps branches and commits to a commit, `folders` commits to files.

    `cut` names files whose downloads break off after that many bytes.
    """

    repo: str
    revisions: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, commit: str, folder: Path, *branches: str) -> None:
        """Publish a folder as a commit, which the branches now mean."""
        self.folders[commit] = folder
        self.revisions |= dict.fromkeys([commit, *branches], commit)


class _Server(ThreadingHTTPServer):
    """Says nothing about clients that have seen enough and go."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve the hub on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            prefix = f"/api/models/{hub.repo}/revision/"
            if path.startswith("/cdn/"):
                self._download(*path.removeprefix("/cdn/").split("/", 1))
            elif path.startswith(prefix) and path.removeprefix(prefix) in hub.revisions:
                self._describe(hub.revisions[path.removeprefix(prefix)])
            elif path.startswith(f"/{hub.repo}/resolve/"):
                self.send_response(302)
                self.send_header("location", path.replace(f"/{hub.repo}/resolve/", "/cdn/"))
                self._end(b"")
            else:
                self.send_response(404)
                self.send_header("x-error-code", "RevisionNotFound" if path.startswith(prefix) else "RepoNotFound")
                self._end(b"{}")

        def _describe(self, commit: str) -> None:
            names = [{"rfilename": path.name} for path in sorted(hub.folders[commit].iterdir())]
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self._end(json.dumps({"id": hub.repo, "sha": commit, "siblings": names}).encode())

        def _download(self, commit: str, name: str) -> None:
            content = (hub.folders[commit] / name).read_bytes()
            hub.downloads.append(name)
            self.send_response(200)
            self._end(content, hub.cut.get(name))

        def _end(self, content: bytes, cut: int | None = None) -> None:
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])
            self.close_connection = cut is not None

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()
