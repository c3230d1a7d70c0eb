"""What the clients are asked, and a gateway over a mock engine for what a real engine cannot be told to do."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from tests.gateway.conftest import Attached, running_gateway, wait_until_ready

QUESTION = "My parcel with the desk lamp has not arrived and tracking shows nothing."
ASK: Any = [{"role": "user", "content": QUESTION}]
# The penalty ends the runs of blanks that a tiny model else writes for ever where a grammar allows blanks.
STRUCTURED: Any = {"temperature": 0, "frequency_penalty": 1, "max_tokens": 400}


class Ticket(BaseModel):
    """What a structured answer has to look like."""

    category: Literal["billing", "shipping"]
    urgent: bool


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "file_ticket",
        "description": "File the customer's message as a ticket.",
        "parameters": Ticket.model_json_schema(),
    },
}


@dataclass(frozen=True)
class Away:
    """A gateway whose engine does not run."""

    url: str
    engine_port: int

    @contextmanager
    def engine_back(self) -> Iterator[None]:
        """A mock engine runs where the gateway looks for one, and the gateway has seen it."""
        command = [sys.executable, "-m", "loadtest.mock_engine", "--port", str(self.engine_port)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until_ready(self.url)
                yield
            finally:
                process.terminate()


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Away]:
    """A gateway that waits for an engine on a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running_gateway(Settings(data_dir=tmp_path), f"http://127.0.0.1:{port}") as url:
        yield Away(url, port)


@pytest.fixture(scope="session")
def attached_to_mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    """A gateway attached to a mock engine; both are this directory's own."""
    data_dir = tmp_path_factory.mktemp("mock")
    with serving() as engine, running_gateway(Settings(data_dir=data_dir), engine.url) as url:
        wait_until_ready(url)
        gateway = Attached(url, engine, data_dir)
        yield gateway
        gateway.http.close()
