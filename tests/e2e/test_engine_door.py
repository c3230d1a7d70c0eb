"""The managed, real engine against another user of the same machine: a connection alone opens nothing."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.canaries import ENGINE_KEY
from tests.conftest import Served
from tests.e2e.readings import described

WRONG = (
    "",
    "Bearer",
    "Bearer wrong",
    ENGINE_KEY,
    f"Basic {ENGINE_KEY}",
    f"Bearer {ENGINE_KEY}x",
    f"bearer {ENGINE_KEY[:-1]}",
)


@pytest.fixture(scope="module")
def stranger(served: Served) -> Iterator[httpx.Client]:
    served.wait_until_ready()  # a test before may have left the engine starting, and its log without routes
    with httpx.Client(base_url=described(served)["url"], timeout=20) as http:
        yield http


def routes(served: Served) -> list[tuple[str, str]]:
    """Every path with its methods that the engine has, as it said itself when it started."""
    told = served.logs()["engine.log"]
    found = re.findall(r"Route: (/[^,]*), (?:Methods: ([A-Z, ]+)|Endpoint: \w+)", told)
    return sorted({(path, method) for path, methods in found for method in (methods or "GET").split(", ")})


def test_no_path_of_the_engine_but_its_health_opens_without_its_key(served: Served, stranger: httpx.Client) -> None:
    listed = routes(served)
    paths = {path for path, _ in listed}
    assert {"/v1/load_lora_adapter", "/invocations", "/tokenize", "/v1/turntable/adapters"} <= paths, served.logs()
    assert len(paths) > 30
    opened = []
    for path, method in [*listed, ("/metrics", "GET"), ("/openapi.json", "GET"), ("/", "GET"), ("/nowhere", "POST")]:
        filled = re.sub(r"{[^}]*}", "x", path)
        answer = stranger.request(method, filled, json={"model": "base", "prompt": "x"} if method == "POST" else None)
        if answer.status_code != httpx.codes.UNAUTHORIZED:
            opened.append((filled, method))
    assert opened == [("/health", "GET")]


@pytest.mark.parametrize("told", WRONG)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/tokenize", "/v1/turntable/adapters"])
def test_nothing_but_the_whole_key_opens(stranger: httpx.Client, path: str, told: str) -> None:
    assert stranger.get(path, headers={"authorization": told}).status_code == 401


@pytest.mark.parametrize(
    "spelling", ["//v1/models", "/health/../v1/models", "/health/", "/v1/models?/health", "/HEALTH"]
)
def test_no_spelling_of_a_path_gets_around_the_key(stranger: httpx.Client, spelling: str) -> None:
    assert stranger.get(spelling).status_code in (401, 404)
    assert "base" not in stranger.get(spelling).text


def test_the_key_opens_what_an_operator_needs(served: Served) -> None:
    for path in ("/v1/models", "/metrics", "/version"):
        assert served.ask_engine("GET", path).status_code == 200
    assert served.ask_engine("POST", "/tokenize", json={"model": "base", "prompt": "x"}).status_code == 200


def test_a_long_whole_answer_arrives(served: Served) -> None:
    asked = {"max_tokens": 400, "logprobs": True, "top_logprobs": 20, "ignore_eos": True, "temperature": 0}
    messages = [{"role": "user", "content": "Where is my parcel?"}]
    answer = served.http.post("/v1/chat/completions", json={"model": "base", "messages": messages, **asked})
    assert answer.status_code == 200
    assert len(answer.content) > 256 << 10
    assert len(answer.json()["choices"][0]["logprobs"]["content"]) == 400
    long = served.http.post("/tokenize", json={"model": "base", "prompt": "a parcel " * 100_000})
    assert long.status_code in (200, 400)
