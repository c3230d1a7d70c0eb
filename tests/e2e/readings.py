"""Readings of a running gateway and its engine: the ledger, the engine's own counters, its processes and state."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.conftest import Served
from tests.waiting import eventually

Reading = TypeVar("Reading")


def usage_of(served: Served, model: str) -> dict[str, int]:
    """The ledger's sums for one model."""
    rows = served.http.get("/admin/v1/usage").json()["data"]
    return next((row for row in rows if row["adapter"] == model), {"requests": 0, "unsettled": 0})


def engine_metric(served: Served, name: str) -> float:
    """Return one counter or gauge of the engine's own /metrics, by its name without `vllm:`."""
    exposed = served.ask_engine("GET", "/metrics").text
    found = re.search(rf"^vllm:{name}{{[^}}]*}} ([0-9.e+]+)$", exposed, re.MULTILINE)
    assert found is not None
    return float(found[1])


def engine_processes(served: Served) -> list[int]:
    """The API server and its workers, found by their group: the guard is the gateway's child and leads it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = (int(stat[1]), int(stat[2]))
    guard = next(pid for pid, (parent, group) in parents.items() if parent == served.process.pid and pid == group)
    return [pid for pid, (_, group) in parents.items() if group == guard and pid != guard]


def described(served: Served) -> dict[str, Any]:
    """Return what the gateway says of its one engine."""
    (engine,) = served.http.get("/admin/v1/engines").json()["data"]
    return dict(engine)


def at_rest(served: Served, read: Callable[[], Reading], is_settled: Callable[[Reading], bool]) -> Reading:
    """Return a settled reading, taken while the engine runs nothing, once a second reading says the same.

    Rows settle and the engine counts after an answer has left, so a first reading may hold only one of the two.
    """
    found = [read()]

    def is_quiet() -> bool:
        found.append(read())
        is_idle = engine_metric(served, "num_requests_running") == 0
        return is_idle and is_settled(found[-1]) and found[-2] == found[-1]

    assert eventually(is_quiet), found[-2:]
    return found[-1]


def present_run(served: Served) -> dict[str, Any]:
    """Return what the reconciliation says of the engine's present run, once every row of it is settled."""
    kept = ("run", "running", "tokens", "evidence", "rows")

    def run() -> dict[str, Any]:
        present = served.http.get("/admin/v1/usage/reconciliation").json()["data"][0]
        return {name: present[name] for name in kept}

    return at_rest(served, run, lambda found: found["running"] == 0)


def engine_totals(served: Served) -> dict[str, float]:
    """Return all tokens that the engine has counted."""
    return {
        "prompt_tokens": engine_metric(served, "prompt_tokens_total"),
        "completion_tokens": engine_metric(served, "generation_tokens_total"),
    }


def booked_and_counted(served: Served) -> tuple[dict[str, int], dict[str, float]]:
    """Return the ledger's sums over everything and the engine's own, once every row is settled."""

    def both() -> tuple[dict[str, int], dict[str, float]]:
        rows = served.http.get("/admin/v1/usage").json()["data"]
        kinds = ("requests", "unsettled", "prompt_tokens", "completion_tokens")
        return {kind: sum(row[kind] for row in rows) for kind in kinds}, engine_totals(served)

    return at_rest(served, both, lambda found: found[0]["unsettled"] == 0)
