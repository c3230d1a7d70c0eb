"""The ledger against the real engine's own counters: every endpoint, aborted requests, several choices, cached ones."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Served
from tests.e2e.inference_requests import HI, REQUESTS
from tests.e2e.readings import engine_metric, present_run
from tests.waiting import eventually

LONG: Any = [{"role": "user", "content": "My parcel has not arrived. " * 30}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "a prompt that is cached the second time": ("/v1/chat/completions", {"messages": LONG, "max_tokens": 4}),
    "a tool call": ("/v1/chat/completions", {"messages": HI, "max_tokens": 12, "tools": [WEATHER]}),
    "tokenize": ("/tokenize", {"prompt": "not metered"}),
    "refused by the engine": ("/v1/chat/completions", {"messages": HI, "max_tokens": 0}),
}


@pytest.fixture(scope="module")
def adapter(served: Served, make_adapter: Callable[[int], Path]) -> str:
    result = served.turntable("adapters", "add", "reconciled", make_adapter(6), "--promote", "--json")
    assert result.returncode == 0, result.stderr
    return "reconciled"


def leave(served: Served, path: str, body: dict[str, Any]) -> None:
    """Ask for a long answer, and close the connection once the engine works on it."""
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    content = json.dumps(body | {limit: 1500, "ignore_eos": True}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    host, port = served.url.removeprefix("http://").split(":")
    before = engine_metric(served, "generation_tokens_total")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}authorization: Bearer {served.key}\r\n\r\n".encode() + content)
        assert eventually(lambda: engine_metric(served, "generation_tokens_total") != before)
    assert eventually(lambda: engine_metric(served, "num_requests_running") == 0)


def test_every_way_of_asking_adds_up_to_what_the_engine_counted(served: Served, adapter: str) -> None:
    before = present_run(served)
    for model in ("base", adapter):
        for stream in (False, True):
            for name, (path, body) in (REQUESTS | MORE | REQUESTS).items():
                answer = served.http.post(path, json=body | {"model": model, "stream": stream})
                assert answer.status_code == (400 if "refused" in name else 200), answer.text
            for path, body in (REQUESTS[name] for name in REQUESTS if name != "completions of two prompts"):
                leave(served, path, body | {"model": model, "stream": stream})
    after = present_run(served)
    assert before["run"] == after["run"]
    for kind in ("prompt_tokens", "completion_tokens"):
        sums = [run["tokens"][kind] for run in (before, after)]
        ledger, engine = (sums[1][side] - sums[0][side] for side in ("ledger", "engine"))
        assert ledger == engine > 0, kind
    told = {one: after["evidence"].get(one, 0) - before["evidence"].get(one, 0) for one in after["evidence"]}
    assert told.pop("exact") >= 4 * (len(REQUESTS) + 2 + 5)
    assert told.get("estimated", 0) == told.get("last_continuous", 0) == 0, "the engine said what aborted requests took"
    assert after["rows"]["turntable"] > 0, "the effect probe is on the ledger"
    compared = served.turntable("usage", "--reconcile", "--json")
    assert json.loads(compared.stdout)["agreement"] in ("agrees", "outside")
    assert compared.returncode == (json.loads(compared.stdout)["agreement"] == "outside")
