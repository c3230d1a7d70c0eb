"""Names with several ready versions, and a gateway over them that is attached to a mock engine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters import Registry, State, Store, Version
from adapters.peft_config import read_peft_config
from gateway.database import open_database
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.adapters.conftest import ALL_LINEAR, Adapter, in_layers, lora
from tests.gateway.conftest import Attached, running_gateway, wait_until_ready


def ready_versions(
    registry: Registry, store: Store, name: str, scratch: Path, count: int, training: dict[str, Any] | None = None
) -> list[Version]:
    """Put `count` versions into store and registry, as if they had been proven; the first one is live."""
    versions = []
    for seed in range(count):
        adapter = Adapter(tensors=lora(in_layers(ALL_LINEAR), seed=seed), training=training)
        directory = adapter.write(scratch / f"{name}-{seed}")
        manifest = store.put(directory, read_peft_config(directory))
        added = registry.add(name, manifest, actor="test")
        versions.append(registry.set_state(added, State.READY, "", actor="test"))
    registry.promote(name, 1, actor="test")
    return versions


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(open_database(f"sqlite:///{tmp_path / 'registry.db'}"))


@pytest.fixture
def versions(registry: Registry, tmp_path: Path) -> Sequence[Version]:
    """Three ready versions of `mine`; v1 is live."""
    return ready_versions(registry, Store(tmp_path / "adapters"), "mine", tmp_path, 3)


@contextmanager
def gateway_with_versions(
    data_dir: Path,
    engine: MockSettings,
    *,
    base_dir: Path | None = None,
    training: dict[str, Any] | None = None,
    **settings: object,
) -> Iterator[Attached]:
    """A gateway whose adapter `mine` has three ready versions, v1 live."""
    wanted = Settings(data_dir=data_dir, **settings)  # type: ignore[arg-type]
    database = open_database(wanted.database)
    ready_versions(Registry(database), Store(wanted.adapters_dir), "mine", data_dir, 3, training)
    database.dispose()
    with serving(engine) as server, running_gateway(wanted, server.url, base_dir=base_dir) as url:
        wait_until_ready(url)
        attached = Attached(url, server, data_dir)
        yield attached
        attached.http.close()
