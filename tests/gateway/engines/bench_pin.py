"""Microseconds to resolve a name and hold its warm adapter: `python -m tests.gateway.engines.bench_pin` prints them."""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from adapters import BaseModel, Registry, State, Store
from adapters.peft_config import read_peft_config
from gateway.database import open_database
from gateway.engines.adapter_loader import AdapterLoader
from gateway.engines.client import EngineClient
from gateway.engines.file_locks import AdapterFileLocks
from gateway.inference.routing import Resolver
from gateway.metrics import Metrics
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.adapters_on_disk import write_adapter

_ROUNDS, _PER_ROUND, _ADAPTERS = 9, 2_000, 32


async def measure(url: str, folder: Path) -> float:
    """The median over rounds, with a realistic number of names registered and resident."""
    base = BaseModel(folder, "0" * 64, {"model.layers.0.q_proj": (16, 16)})
    store, registry = Store(folder / "store"), Registry(open_database(f"sqlite:///{folder / 'turntable.db'}"))
    client = EngineClient(url, connect_timeout_s=2, idle_timeout_s=60)
    loader = AdapterLoader(
        name="engine-0",
        client=client,
        store=store,
        file_locks=AdapterFileLocks(store.root),
        metrics=Metrics().adapters,
        slots=_ADAPTERS,
        capacity=2 * _ADAPTERS,
    )
    loader.has_plugin = False
    names = [f"adapter-{number}" for number in range(_ADAPTERS)]
    for seed, name in enumerate(names):
        source = write_adapter(base, folder / name, seed)
        version = registry.add(name, store.put(source, read_peft_config(source)), actor="bench")
        await loader.ensure(registry.set_state(version, State.READY, "", actor="bench"))
        registry.promote(name, version.version, actor="bench")
    resolver, rounds = Resolver(registry, "base"), []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for number in range(_PER_ROUND):
            version_held = resolver.route(names[number % _ADAPTERS]).target.version
            assert version_held is not None
            await loader.pin(version_held)
            loader.unpin(version_held, answered=True)
        rounds.append(1e6 * (time.perf_counter() - started) / _PER_ROUND)
    client.close()
    return median(rounds)


def main() -> None:
    """Print the figure."""
    with tempfile.TemporaryDirectory() as folder, serving(MockSettings()) as engine:
        print(f"{asyncio.run(measure(engine.url, Path(folder))):.2f}")


if __name__ == "__main__":
    main()
