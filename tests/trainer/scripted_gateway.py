"""A small real HTTP server that answers chat requests as the model named always does."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

KEY = "tt-test"
RIGHT = '{"category": "billing"}'
JUDGES = ("judge", "first", "babble")
SAID = {"good": RIGHT, "chatty": f"Sure! {RIGHT}", "wrong": '{"category": "shipping"}', "priced": RIGHT}
ADMIN: dict[str, object] = {
    "/admin/v1/base": {"model": "base", "base_sha256": "b" * 64, "template_sha256": "c" * 64},
    "/admin/v1/adapters/good": {
        "versions": [
            {"version": "v1", "digest": "1" * 64, "state": "quarantined", "live": False},
            {"version": "v2", "digest": "2" * 64, "state": "ready", "live": False},
            {"version": "v3", "digest": "3" * 64, "state": "retired", "live": False},
        ]
    },
}
POSTED: list[tuple[str, dict[str, object]]] = []
"""What was brought to the admin surface."""


class Server(ThreadingHTTPServer):
    """Does not print when a client hangs up on it, as one does that has seen enough."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class ScriptedModels(BaseHTTPRequestHandler):
    """Answers as the model named says; `flaky` refuses questions that hold the word `hard`.

    `echo` repeats the question, `judge` prefers the answer that holds `billing`, `first` always the first one,
    `babble` says no word that a judge may say; `hasty` is right except on questions that hold `parcel`, `praise` says
    what a question asks for unless it is a complaint, `priced` tells what it cost.
    """

    def do_GET(self) -> None:
        if self.path.startswith("/admin/"):
            found = ADMIN.get(self.path)
            self._send(200 if found else 404, found or {"error": {"message": "there is no such page"}})
            return
        self._send(200 if self.headers["authorization"] == f"Bearer {KEY}" else 401, {"object": "list", "data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.startswith("/admin/"):
            POSTED.append((self.path, body))
            self._send(201, {})
            return
        model, asked = body["model"].removesuffix("@v2"), body["messages"]
        assert body["temperature"] == 0.0
        assert body["max_tokens"] == (16 if model in JUDGES else 32)
        assert asked[-1]["role"] == "user", "the expected answer must not be sent"
        if model == "flaky" and "hard" in asked[-1]["content"]:
            self._send(400, {"error": {"message": "too hard"}})
        elif (said := answer_of(model, asked)) is None:
            self._send(404, {"error": {"message": f"no model {model}", "code": "model_not_found"}})
        else:
            priced = {"x-turntable-cost-usd": "0.000002000", "x-turntable-cost-basis": "calibrated"}
            self._send(200, completion(model, said), priced if model == "priced" else {})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _send(self, status: int, document: object, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def answer_of(model: str, asked: list[dict[str, str]]) -> str | None:
    """What a model says to a conversation; None when there is no such model."""
    question = asked[-1]["content"]
    match model:
        case "echo":
            return json.dumps(asked)
        case "judge":
            first, _, second = question.partition("Answer A:")[2].partition("Answer B:")
            return "TIE" if ("billing" in first) == ("billing" in second) else "A" if "billing" in first else "B."
        case "first":
            return "A"
        case "babble":
            return "Both answers have their merits."
        case "praise":
            return "question" if "question" in question else "praise"
        case "hasty":
            return SAID["wrong"] if "parcel" in question else RIGHT
        case _:
            return SAID.get(model, RIGHT if model in ("flaky", "base") else None)


def completion(model: str, text: str) -> dict[str, object]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


@contextmanager
def running() -> Iterator[str]:
    """The server's address, while it runs."""
    with Server(("127.0.0.1", 0), ScriptedModels) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
