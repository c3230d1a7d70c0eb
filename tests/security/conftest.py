"""What attackers have at hand: raw bytes on a connection, any key, and a gateway with a mock engine behind it."""

import socket
from dataclasses import dataclass

import pytest

from tests.gateway.conftest import attached as attached


@dataclass(frozen=True)
class Answer:
    """One HTTP answer as it came over the wire."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, which may be there once at the most."""
        lines = [line for line in self.head.split(b"\r\n")[1:] if line.lower().startswith(name.encode() + b":")]
        assert len(lines) <= 1, lines
        return lines[0].partition(b":")[2].strip().decode("latin-1") if lines else None


def send(url: str, message: bytes) -> Answer:
    """Send bytes, which ask for the connection to be closed, and read what comes back."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(message)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return Answer(int(head.split()[1]), head, body)


def request(target: bytes, *headers: bytes, method: bytes = b"GET", host: bytes = b"x", body: bytes = b"") -> bytes:
    """The bytes of a request, as odd as its parts are."""
    lines = [method + b" " + target + b" HTTP/1.1", b"host: " + host, b"connection: close", *headers]
    if body:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def bearer(key: str) -> bytes:
    """The header that carries a key."""
    return f"authorization: Bearer {key}".encode()


@pytest.fixture
def chat_body() -> bytes:
    return b'{"model":"base","messages":[{"role":"user","content":"hi"}]}'
