"""API key check of the engine: with VLLM_API_KEY set, every path but the health check requires that key.

vLLM's own check covers /v1 and a few other prefixes only, and leaves /adapters, /invocations, /tokenize, /metrics and
more open. `PROOF` needs no key: there the engine proves that it knows the key before the gateway sends it, because
another process may listen on the engine's port.
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

PROOF = "/turntable/proof/"
_OPEN_PATHS = frozenset({"/health"})
_MAX_NONCE_LENGTH = 128

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def prove(key: str, nonce: str) -> str:
    """Return the HMAC of a nonce, which proves knowledge of the key."""
    return hmac.new(key.encode(), f"turntable engine {nonce}".encode(), hashlib.sha256).hexdigest()


class KeyGuard:
    """ASGI middleware that rejects requests without the key."""

    def __init__(self, app: App, key: str) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request with the key on; answer any other with 401."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):  # the application's own start and end
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if kind == "http" and path.startswith(PROOF) and len(nonce := path.removeprefix(PROOF)) <= _MAX_NONCE_LENGTH:
            await _answer(send, 200, prove(self._key, nonce).encode())
        elif path in _OPEN_PATHS or self._has_key(scope):
            await self._app(scope, receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _answer(send, 401, b'{"error":{"message":"This engine serves its gateway only.","code":401}}')

    def _has_key(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(values) == 1 and secrets.compare_digest(values[0], f"Bearer {self._key}".encode())


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
