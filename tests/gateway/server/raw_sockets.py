"""Talk to a server in raw bytes."""

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """Connect to the server at `url` until the block ends."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        yield client


def read_all(client: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    return b"".join(iter(lambda: client.recv(65536), b""))
