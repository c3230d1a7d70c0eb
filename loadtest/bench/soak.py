"""The soak: many plain requests through Turntable, and the slope of its memory over them."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from loadtest.bench import machine as process_tree
from loadtest.bench.driver import Phase, drive
from loadtest.bench.systems import SYSTEMS, TURNTABLE, running_engine, running_system
from loadtest.bench.workloads import PLAIN_WORDS

SLOPE_LIMIT_MIB = 1.0
"""MiB per 10,000 requests."""
BLOCKS = 20
BLOCK_LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class Soak:
    """Memory at the start and after every block of requests."""

    started: str
    machine: dict[str, str]
    versions: dict[str, str]
    requests: int
    failed: int
    rss_mib: list[float]

    @property
    def slope_mib(self) -> float:
        """MiB per 10,000 requests by least squares; the first fifth, when caches fill, is left out."""
        settled = self.rss_mib[len(self.rss_mib) // 5 :]
        block = self.requests / (len(self.rss_mib) - 1)
        return float(np.polyfit(np.arange(len(settled)) * block / 10_000, settled, 1)[0])


def soak(requests: int, venvs: Path, say: Callable[[str], None]) -> tuple[int, list[float]]:
    """Send the requests in blocks; returns how many failed, and Turntable's RSS in MiB before and after each block."""
    failed, per_block = 0, max(1, requests // BLOCKS)
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as client,
        tempfile.TemporaryDirectory() as folder,
        running_engine(Path(folder), 0, PLAIN_WORDS) as engine,
        running_system(SYSTEMS[TURNTABLE], engine, Path(folder) / TURNTABLE, venvs) as server,
    ):
        block = Phase(server.port, server.key, False, PLAIN_WORDS, BLOCK_LIMIT_S, concurrency=16, requests=per_block)
        rss_mib = [process_tree.rss_mib(server.pid)]
        for number in range(1, BLOCKS + 1):
            failed += client.submit(drive, block).result().failed
            rss_mib.append(round(process_tree.rss_mib(server.pid), 2))
            say(f"{number * per_block:,} requests: {rss_mib[-1]:.1f} MiB")
    return failed, rss_mib
