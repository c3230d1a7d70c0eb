"""Every endpoint and every error with marked keys and a marked prompt: nothing kept, shown or logged has them."""

import base64
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.inference.formats import APIS
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import Fault, MockSettings
from tests import canaries
from tests.canaries import MARK, PROMPT
from tests.gateway.conftest import Attached, running_gateway, wait_until_ready
from tests.waiting import eventually

BODIES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4, "user": "u"},
    "prompt": {"prompt": PROMPT, "input": PROMPT, "tokens": [1], "max_tokens": 4},
}
PAGES: tuple[str, ...] = (
    "/metrics",
    "/docs",
    "/openapi.json",
    "/admin/v1/audit?limit=1000",
    "/admin/v1/keys",
    "/admin/v1/engines",
)
PAGES += ("/admin/v1/usage?group_by=key,tenant", "/admin/v1/costs", "/admin/v1/costs/evidence", "/admin/v1/adapters")
FAULTS = [fault for fault in Fault if fault not in (Fault.HANG, Fault.HANG_MID_STREAM)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    data_dir: Path = tmp_path_factory.mktemp("canaries")
    settings = Settings(data_dir=data_dir, idle_timeout_s=1, first_byte_timeout_s=1, suspect_s=0)
    with serving(MockSettings(tokens=4)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        gateway = Attached(url, engine, data_dir)
        yield gateway
        gateway.http.close()


def drive(gateway: Attached, key: str) -> list[bytes]:
    """Ask for everything, well and badly, with a key and with what is nearly one; returns all errors' answers."""
    answers: list[httpx.Response] = []
    for shown in (key, key[:-1], key + "x"):
        headers = {"authorization": f"Bearer {shown}", "x-request-id": "mine"}
        with httpx.Client(base_url=gateway.url, headers=headers, timeout=20) as http:
            methods = ("GET", "POST", "PUT", "PATCH", "DELETE") if shown == key else ("POST",)
            for path in http.get("/openapi.json").json()["paths"]:
                filled = path.replace("{name}", "x").replace("{version}", "v1").replace("{key_id}", "k" * 12)
                answers += [http.request(method, filled, json={"name": 7, "x": PROMPT}) for method in methods]
            if shown == key:
                answers += infer(http)
    assert {answer.status_code for answer in answers} >= {400, 401, 404, 405, 502}
    return [answer.content for answer in answers if not answer.is_success]


def infer(http: httpx.Client) -> Iterator[httpx.Response]:
    """Every endpoint with good bodies and bad ones, and every fault of an engine."""
    for path in APIS:
        for body in BODIES.values():
            for more in ({}, {"stream": True}, {"model": "nobody"}, {"stream": PROMPT}):
                yield http.post(path, json={"model": "base"} | body | more)
        yield http.post(path, content=f'{{"model": "base", {PROMPT}')
    for fault in FAULTS:
        for stream in (False, True):
            body = {"model": "base", "stream": stream, "mock_fault": fault} | BODIES["messages"]
            yield http.post("/v1/chat/completions", json=body)


def test_no_secret_and_no_prompt_is_in_anything_that_is_kept_shown_or_logged(
    gateway: Attached, caplog: pytest.LogCaptureFixture
) -> None:
    """The class of LiteLLM's issues 15799, 8075, 11264, 31620: keys in logs, audit entries, errors, metrics."""
    for name in ("gateway", "adapters", "uvicorn", "sqlalchemy", "alembic"):
        caplog.set_level(logging.DEBUG, logger=name)
    made = gateway.http.post("/admin/v1/keys", json={"name": "tenant", "tenant": "acme"}).json()
    secret = made["key"].rpartition("-")[2]
    rotated = gateway.http.post(f"/admin/v1/keys/{made['id']}/rotate", json={"overlap_s": 60}).json()["key"]
    errors = drive(gateway, canaries.ADMIN_KEY) + drive(gateway, made["key"])
    rows: list[dict[str, Any]] = []

    def settled() -> bool:
        rows[:] = gateway.http.get("/admin/v1/usage").json()["data"]
        return all(row["unsettled"] == 0 for row in rows)

    assert eventually(settled)
    pages = [gateway.http.get(page) for page in PAGES]
    assert {page.status_code for page in pages} == {200}
    for mark in (MARK, secret, rotated.rpartition("-")[2]):
        canaries.assert_none([page.content for page in pages], mark)
        canaries.assert_none(errors, mark)
        canaries.assert_none([caplog.text], mark)
        assert canaries.leaks(gateway.data_dir, mark) == []


def test_the_watch_finds_what_is_planted(tmp_path: Path) -> None:
    for name, content in (
        ("plain.log", f"key={canaries.ADMIN_KEY}".encode()),
        ("hex.db", f"\x00{MARK.encode().hex()}".encode()),
        ("admin.key", canaries.ADMIN_KEY.encode()),
        ("clean.log", b"nothing here"),
    ):
        (tmp_path / name).write_bytes(content)
    assert [leak.rpartition("/")[2] for leak in sorted(canaries.leaks(tmp_path))] == [
        "hex.db: hexadecimal",
        "plain.log: plain",
    ]
    for before in range(6):
        coded = base64.b64encode(bytes(before) + MARK.encode() + b" and more")
        assert canaries.traces(coded), before
    watch = canaries.LogWatch()
    log = logging.Logger("planted")
    log.addHandler(watch)
    log.warning("a request with %s failed", {"authorization": canaries.ADMIN_KEY})
    try:
        raise ValueError(PROMPT)
    except ValueError:
        log.exception("failed")
    log.warning("nothing here")
    assert len(watch.found) == 2
    with pytest.raises(AssertionError, match="brought it"):
        canaries.assert_none([f"somebody brought it: {MARK}"])
