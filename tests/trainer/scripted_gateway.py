"""A small real HTTP server that answers chat requests as the model named always does."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "tt-test"
RIGHT = '{"category": "billing"}'
SAID = {"good": RIGHT, "chatty": f"Sure! {RIGHT}", "wrong": '{"category": "shipping"}'}


class Server(ThreadingHTTPServer):
    """Does not print when a client hangs up on it, as one does that has seen enough."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class ScriptedModels(BaseHTTPRequestHandler):
    """Answers as the model named says; `flaky` refuses questions that hold the word `hard`."""

    def do_GET(self) -> None:
        self._send(200 if self.headers["authorization"] == f"Bearer {KEY}" else 401, {"object": "list", "data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model, asked = body["model"], body["messages"]
        assert (body["temperature"], body["max_tokens"]) == (0.0, 32)
        assert asked[-1]["role"] == "user", "the expected answer must not be sent"
        if model == "flaky" and "hard" in asked[-1]["content"]:
            self._send(400, {"error": {"message": "too hard"}})
        elif model not in SAID and model != "flaky":
            self._send(404, {"error": {"message": f"no model {model}", "code": "model_not_found"}})
        else:
            self._send(200, completion(model, SAID.get(model, RIGHT)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _send(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
