"""Serve the rating page on loopback: one page and three POST routes, with a token in the address.

The page gets the next example, sends a rating, or undoes one; the arms are never named. The standard library's
threading server is enough for a few raters; `Ratings` has the lock.
"""

import json
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

from trainer.errors import EvaluationError
from trainer.human_eval.pairs import PairwiseEval
from trainer.human_eval.ratings import Choice, RatingStore
from turntable.pages import render

CONTENT_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def html_page(nonce: str, token: str) -> str:
    """Render the page that raters see: its one script runs by the nonce and sends the token with every request."""
    return render.page("trainer.human_eval/page.html", title="Which answer is better?", nonce=nonce, token=token)


_RATER = re.compile(r"[\w .-]{1,40}")
_MAX_TOOK_MS = 24 * 3600 * 1000


class BadRequestError(Exception):
    """An invalid request of the page; the message is the reason."""


class Session:
    """Handle the three requests of the page."""

    def __init__(self, evaluation: PairwiseEval, ratings: RatingStore, *, show_expected: bool) -> None:
        self._evaluation = evaluation
        self._ratings = ratings
        self._show_expected = show_expected

    def next(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return the next example of the rater, and the progress."""
        return self._state(_rater(document))

    def rate(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Save a rating of the rater's current example, and return the next one."""
        rater, line, side = _rater(document), document.get("item"), document.get("choice")
        if side not in ("left", "right", "tie"):
            raise BadRequestError("choice is left, right or tie")
        if not isinstance(line, int) or line != self._current(rater):
            raise BadRequestError("that is not the current example; load the page again")
        choice: Choice = "tie"
        if side != "tie":
            choice = "arm" if (side == "right") == self._evaluation.is_swapped(rater, line) else "against"
        self._ratings.rate(rater, line, choice, _took_ms(document))
        return self._state(rater)

    def undo(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Remove the rater's last rating and return its example."""
        rater = _rater(document)
        self._ratings.undo(rater)
        return self._state(rater)

    def _current(self, rater: str) -> int | None:
        chosen = self._ratings.of(rater)
        return next((line for line in self._evaluation.order(rater) if line not in chosen), None)

    def _state(self, rater: str) -> dict[str, Any]:
        line = self._current(rater)
        done = len(self._ratings.of(rater))
        state: dict[str, Any] = {"done": done, "total": len(self._evaluation.pairs), "item": None}
        if line is None:
            return state
        pair = self._evaluation.by_line[line]
        sides = (pair.theirs, pair.mine) if self._evaluation.is_swapped(rater, line) else (pair.mine, pair.theirs)
        messages = [{"role": message["role"], "content": message.get("content") or ""} for message in pair.item.prompt]
        shown = {"item": line, "messages": messages, "left": sides[0], "right": sides[1]}
        return state | {"item": shown | ({"expected": pair.item.expected} if self._show_expected else {})}


def _rater(document: Mapping[str, Any]) -> str:
    name = document.get("rater")
    if not isinstance(name, str) or not _RATER.fullmatch(name.strip()):
        raise BadRequestError("a rater's name has 1 to 40 letters, digits, spaces, dots or dashes")
    return name.strip()


def _took_ms(document: Mapping[str, Any]) -> int:
    took = document.get("took_ms")
    return min(max(int(took), 0), _MAX_TOOK_MS) if isinstance(took, int | float) else 0


HOST = "127.0.0.1"
TOKEN_HEADER = "x-review-token"  # noqa: S105 - the name of a header
MAX_BODY_BYTES = 4096
_TIMEOUT_S = 30


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, session: Session) -> None:
        super().__init__((HOST, port), _Handler)
        self.session = session
        self.token = secrets.token_urlsafe(24)

    @property
    def hosts(self) -> tuple[str, str]:
        """The Host headers of a browser on this machine; another one is DNS rebinding."""
        return f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a browser that closes its connection."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_S
    server_version = "turntable"
    sys_version = ""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        given = parse_qs(parts.query).get("token", [""])[0]
        if self._is_foreign() or not self._is_known(given):
            self._send(HTTPStatus.FORBIDDEN, {"error": "open the address that turntable review printed"})
        elif parts.path != "/":
            self._send(HTTPStatus.NOT_FOUND, {"error": "there is only one page"})
        else:
            nonce = secrets.token_urlsafe(16)
            self._send(HTTPStatus.OK, html_page(nonce, self.server.token), policy=CONTENT_POLICY.format(nonce=nonce))

    def do_POST(self) -> None:
        session = self.server.session
        questions = {"/next": session.next, "/rate": session.rate, "/undo": session.undo}
        question = questions.get(self.path)
        if self._is_foreign() or not self._is_known(self.headers.get(TOKEN_HEADER, "")):
            self._refuse(HTTPStatus.FORBIDDEN, "open the address that turntable review printed")
        elif question is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there are /next, /rate and /undo")
        else:
            try:
                answer = question(self._json_body())
            except BadRequestError as error:
                self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            else:
                self._send(HTTPStatus.OK, answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: the address contains the token."""

    def _is_foreign(self) -> bool:
        """Whether the request comes from another origin or has another Host header."""
        host, origin = self.headers.get("host", ""), self.headers.get("origin")
        return host not in self.server.hosts or origin not in (None, f"http://{host}")

    def _is_known(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self.server.token.encode())

    def _json_body(self) -> dict[str, Any]:
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise BadRequestError("send a small JSON object")
        try:
            document = json.loads(self.rfile.read(int(length)), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise BadRequestError("send a small JSON object") from error
        if not isinstance(document, dict):
            raise BadRequestError("send a small JSON object")
        return document

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # its body may not have been read
        self._send(status, {"error": reason})

    def _send(self, status: HTTPStatus, content: dict[str, Any] | str, *, policy: str = "default-src 'none'") -> None:
        kind = "text/html" if isinstance(content, str) else "application/json"
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        headers = {
            "content-type": f"{kind}; charset=utf-8",
            "content-length": str(len(body)),
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "same-origin",
            "cache-control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(session: Session, port: int = 0) -> Iterator[str]:
    """Serve the page and yield its address with the token; raises `EvaluationError` when the port is in use."""
    try:
        server = _Server(port, session)
    except OSError as error:
        raise EvaluationError(f"port {port} cannot be used ({error.strerror}); choose another with --port.") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/?token={server.token}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
