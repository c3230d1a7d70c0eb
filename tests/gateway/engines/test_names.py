"""Engines have one name each in a database that gateways share, so that each is billed, and billed once."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.engines.process import engine_names
from gateway.settings import Settings
from loadtest.mock_engine import serving
from tests.databases import Postgres
from tests.gateway.conftest import KEY, running_gateway, wait_until_ready
from tests.waiting import eventually

SHARED = "sqlite:////shared/turntable.db"


def test_in_a_database_of_its_own_a_gateway_counts_its_engines(tmp_path: Path) -> None:
    urls = ("http://10.0.0.1:8000", "http://10.0.0.2:8000")
    assert engine_names(Settings(data_dir=tmp_path), urls, is_managed=False) == ["engine-0", "engine-1"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://10.0.0.1:8000", "10.0.0.1:8000"),
        ("http://vllm", "vllm:80"),
        ("https://Vllm.example/", "vllm.example:443"),
        ("http://vllm:8000/second/", "vllm:8000_second"),
        ("http://[::1]:8000", "::1:8000"),
    ],
)
def test_in_a_shared_one_an_attached_engine_is_called_by_its_address(tmp_path: Path, url: str, name: str) -> None:
    settings = Settings(data_dir=tmp_path, database_url=SHARED)
    assert engine_names(settings, (url,), is_managed=False) == [name]


def test_a_long_address_is_cut_to_what_the_ledger_holds_and_stays_distinct(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=SHARED)
    urls = [f"http://{'vllm-' * 12}headless.prod.svc.cluster.local:{port}" for port in (8000, 8001)]
    names = engine_names(settings, urls, is_managed=False)
    assert [len(name) for name in names] == [64, 64]
    assert names[0] != names[1]


def test_a_managed_engine_is_called_by_its_gateway_and_keeps_its_name(tmp_path: Path) -> None:
    def name(gateway: str) -> str:
        folder = tmp_path / gateway
        (folder / "ledger").mkdir(parents=True, exist_ok=True)
        settings = Settings(data_dir=folder, database_url=SHARED)
        return engine_names(settings, ("http://127.0.0.1:8001",), is_managed=True)[0]

    assert name("one") == name("one") != name("two")


def is_bill_of(gateway: str, names: set[str]) -> bool:
    """Whether these engines, and no others, are paid for."""
    found = httpx.get(f"{gateway}/admin/v1/costs", headers={"authorization": f"Bearer {KEY}"}).json()
    return sorted(line["name"] for line in found["engines"] if line["bill_nano_usd"]) == sorted(names)


@pytest.mark.parametrize("count", [1, 2])
def test_two_gateways_pay_for_every_engine_once(postgres: Postgres, tmp_path: Path, count: int) -> None:
    shared: dict[str, Any] = {"database_url": postgres.migrated(), "key_pepper": "p" * 40, "engine_usd_per_hour": "3.6"}
    with ExitStack() as running:
        engines = [running.enter_context(serving()) for _ in range(count)]
        one, two = (
            running.enter_context(running_gateway(Settings(data_dir=tmp_path / name, **shared), engine.url))
            for name, engine in (("one", engines[0]), ("two", engines[-1]))
        )
        names = {engine.url.removeprefix("http://") for engine in engines}
        for url in (one, two):
            wait_until_ready(url)
            assert eventually(partial(is_bill_of, url, names))
