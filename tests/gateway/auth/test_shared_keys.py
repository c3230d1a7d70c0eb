"""Two whole gateways on one database: what one changes about a key, the other applies within its next refreshes."""

from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from pydantic import SecretStr

from gateway.metering.engine_uptime import EngineRuns
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from tests.gateway.auth.conftest import PEPPER
from tests.gateway.conftest import KEY, running_gateway, wait_until_ready
from tests.waiting import eventually

ADMIN = {"authorization": f"Bearer {KEY}"}


def _fail(*_: object) -> NoReturn:
    raise ValueError("of no use")


def test_a_key_made_on_one_gateway_works_on_the_other_until_it_is_revoked(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = {"database_url": database_url, "key_pepper": SecretStr(PEPPER)}
    here, there = (Settings(data_dir=tmp_path / name, **shared) for name in ("here", "there"))  # type: ignore[arg-type]
    for settings in (here, there):
        settings.data_dir.mkdir()
    with serving() as engine, running_gateway(here, engine.url) as one, running_gateway(there, engine.url) as other:
        for url in (one, other):
            wait_until_ready(url)
        made = httpx.post(f"{one}/admin/v1/keys", headers=ADMIN, json={"name": "shared"}).json()

        def status(url: str) -> int:
            body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
            headers = {"authorization": f"Bearer {made['key']}"}
            return httpx.post(f"{url}/v1/chat/completions", headers=headers, json=body).status_code

        assert status(one) == 200
        assert eventually(lambda: status(other) == 200)
        monkeypatch.setattr(EngineRuns, "heartbeat", _fail)  # what else fails, it hears of keys
        assert eventually(lambda: "background task 'engine_runs' failed" in caplog.text)
        assert httpx.delete(f"{other}/admin/v1/keys/{made['id']}", headers=ADMIN).json()["state"] == "revoked"
        assert status(other) == 401
        assert eventually(lambda: status(one) == 401)
    assert not (here.data_dir / "key.pepper").exists()
