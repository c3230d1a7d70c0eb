"""Benchmark of many adapters on a real engine: cold starts, slots, throughput, a killed engine; figures and their bars.

docs/benchmarks/adapters.json keeps the result.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

from loadtest.bench.adapters_server import BenchGateway, closest, serving, wait_for, write_adapters
from loadtest.model_mix import zipf_weights

Say = Callable[[str], None]
_COLD = 20
_MANY_SLOTS = 64
_ZIPF = 1.0
_CLIENTS = 32
_TOKENS = 32
_SAMPLE = 20
_REQUESTS = 2_000


@dataclass(frozen=True, slots=True)
class ManyAdapters:
    """Zipf traffic over many registered adapters; `judged` answers were compared with references, `wrong` of them came
    from other weights; `agrees` says whether gateway and engine name the same residents afterwards.
    """

    registered: int
    active: int
    requests: int
    failed: int
    judged: int
    wrong: int
    rss_mib: list[float]
    resident: int
    agrees: bool
    list_s: float
    models_s: float


@dataclass(frozen=True, slots=True)
class EngineKill:
    """An engine killed with adapters in use; times count from when the new engine's own health check said yes."""

    adapters: int
    engine_start_s: float
    ready_s: float
    back_s: float
    wrong: int


@dataclass(frozen=True, slots=True)
class AdapterResult:
    """Result of `bench-adapters`: tokens per second with one and with many adapters per round, first tokens in ms."""

    plan: str
    one: list[float]
    many: list[float]
    cold_ms: list[float]
    warm_ms: list[float]
    turns: ManyAdapters
    kill: EngineKill

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "AdapterResult":
        """Read the JSON of a run; fields that are not measured are ignored."""
        known = {name: document[name] for name in cls.__slots__ if name not in ("turns", "kill")}
        return cls(**known, turns=ManyAdapters(**document["turns"]), kill=EngineKill(**document["kill"]))

    @property
    def ratio(self) -> float:
        """Ratio of tokens per second with many adapters to one, median of the rounds."""
        return median(many / one for many, one in zip(self.many, self.one, strict=True))

    @property
    def cold_extra_ms(self) -> float:
        """Extra TTFT of a cold adapter, median."""
        return median(cold - warm for cold, warm in zip(self.cold_ms, self.warm_ms, strict=True))


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One row of the table: a figure, its bar, and whether it is met."""

    what: str
    bar: str
    found: str
    is_met: bool


def rows(result: AdapterResult, resolve_pin_us: float | None) -> list[TargetResult]:
    """Return every figure with its bar."""
    turns, kill = result.turns, result.kill
    found = [
        TargetResult(
            "first token, cold over warm", "≤ 100 ms", f"{result.cold_extra_ms:.1f} ms", result.cold_extra_ms <= 100
        ),
        TargetResult(
            "64 adapters, Zipf 1, over one adapter: tokens/s", "≥ 0.95", f"{result.ratio:.2f}", result.ratio >= 0.95
        ),
        TargetResult(f"{turns.registered:,} versions listed", "≤ 1 s", f"{turns.list_s:.2f} s", turns.list_s <= 1),
        TargetResult("the same in /v1/models", "≤ 1 s", f"{turns.models_s:.2f} s", turns.models_s <= 1),
        TargetResult(
            f"{turns.requests:,} requests, Zipf over {turns.active} of them: failed",
            "0",
            str(turns.failed),
            not turns.failed,
        ),
        TargetResult("answers from other weights", "0", f"{turns.wrong} of {turns.judged:,} judged", not turns.wrong),
        TargetResult(
            "residents: gateway and engine agree",
            "yes",
            f"{'yes' if turns.agrees else 'no'}, {turns.resident}",
            turns.agrees,
        ),
        TargetResult(
            f"engine killed with {kill.adapters} adapters in use: all back after its own start",
            "≤ 15 s",
            f"{kill.back_s:.1f} s",
            kill.back_s <= 15,
        ),
        TargetResult("of these, answers from other weights", "0", str(kill.wrong), not kill.wrong),
    ]
    if resolve_pin_us is not None:
        found.append(
            TargetResult("resolve and pin a warm adapter", "≤ 20 µs", f"{resolve_pin_us:.1f} µs", resolve_pin_us <= 20)
        )
    return found


def table(result: AdapterResult, resolve_pin_us: float | None) -> str:
    """Render the rows in Markdown, with memory, which has no bar."""
    lines = ["| what | bar | found |  |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row.what} | {row.bar} | {row.found} | {'met' if row.is_met else 'missed'} |"
        for row in rows(result, resolve_pin_us)
    ]
    before, after = result.turns.rss_mib
    lines.append(f"| memory of gateway and engine, before and after them |  | {before:,.0f} MiB, {after:,.0f} MiB |  |")
    return "\n".join(lines)


def measure_adapters(model: Path, registered: int, active: int, rounds: int, say: Say) -> AdapterResult:
    """Run all measurements with `registered` adapters, of which `active` get traffic."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "var"
        say(f"making {registered} adapters")
        directories = write_adapters(model, Path(folder) / "adapters", registered)
        names = [directory.name for directory in directories]
        with serving(data_dir, model) as server:
            say(f"publishing {_MANY_SLOTS}, so that slots are planned for them")
            _publish(server, names[:_MANY_SLOTS], directories)
        with serving(data_dir, model) as server:
            plan = str(server.engine()["plan"]["reason"])
            say(plan)
            one, many = _throughput(server, names[:_MANY_SLOTS], rounds, say)
            say(f"publishing {registered} in all")
            _publish(server, names, directories, begin=_MANY_SLOTS)
            cold, warm = _first_tokens(server, names)
            found = _take_turns(server, names, active, say)
            kill = _kill(server, names[:20], say)
    return AdapterResult(plan=plan, one=one, many=many, cold_ms=cold, warm_ms=warm, turns=found, kill=kill)


def _publish(server: BenchGateway, names: Sequence[str], directories: Sequence[Path], *, begin: int = 0) -> None:
    for name, directory in islice(zip(names, directories, strict=False), begin, None):
        server.publish(name, directory)


def _throughput(server: BenchGateway, names: Sequence[str], rounds: int, say: Say) -> tuple[list[float], list[float]]:
    """Measure tokens per second with one adapter and with all of `names`, Zipf, in an order that alternates."""
    chosen = _zipf(names, 8 * _CLIENTS)
    _tokens_per_s(server, list(names))  # everything has its slot before anything is timed
    one: list[float] = []
    many: list[float] = []
    turns = [(one, [names[0]] * len(chosen)), (many, chosen)]
    for number in range(rounds):
        for measured, models in turns if number % 2 == 0 else reversed(turns):
            measured.append(_tokens_per_s(server, models))
        say(f"round {number + 1}: {one[-1]:.0f} tokens/s with one adapter, {many[-1]:.0f} with {len(names)}")
    return one, many


def _tokens_per_s(server: BenchGateway, models: Sequence[str]) -> float:
    def ask(model: str) -> int:
        return int(server.complete(model, max_tokens=_TOKENS, ignore_eos=True)["usage"]["completion_tokens"])

    started = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as threads:
        tokens = sum(threads.map(ask, models))
    return tokens / (time.perf_counter() - started)


def _first_tokens(server: BenchGateway, names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Measure TTFT in ms of adapters that are not resident, and of the same ones right after."""
    resident = {name.partition("@")[0] for name in server.engine()["resident"]}
    cold, warm = [], []
    for name in [name for name in names if name not in resident][:_COLD]:
        cold.append(server.first_token_ms(name, "Dear customer, your"))
        warm.append(median(server.first_token_ms(name, f"Dear customer {n}, your") for n in range(3)))
    return cold, warm


def _take_turns(server: BenchGateway, names: Sequence[str], active: int, say: Say) -> ManyAdapters:
    """Send Zipf traffic over `active` of all adapters: errors, wrong answers, memory, residency."""
    sample = list(names[:_SAMPLE])
    references = server.fingerprints(sample)
    chosen = _zipf(names[:active], _REQUESTS)
    before = server.rss_mib()
    failed = wrong = judged = 0
    with ThreadPoolExecutor(_CLIENTS) as threads:
        for name, answer in zip(chosen, threads.map(lambda name: _asked(server, name), chosen), strict=True):
            failed += answer is None
            if answer is not None and name in references:
                judged += 1
                wrong += closest(answer, references) != name
    engine = server.engine()
    truth = httpx.get(f"{engine['url']}/v1/turntable/adapters").json()["adapters"]
    in_memory = {adapter["name"] for adapter in truth if adapter["tier"] != "disk"}
    started = time.perf_counter()
    listed = len(server.http.get("/admin/v1/adapters").json()["data"])
    list_s = time.perf_counter() - started
    started = time.perf_counter()
    server.http.get("/v1/models").raise_for_status()
    found = ManyAdapters(
        registered=listed,
        active=active,
        requests=len(chosen),
        failed=failed,
        judged=judged,
        wrong=wrong,
        rss_mib=[before, server.rss_mib()],
        resident=len(engine["resident"]),
        agrees=set(engine["resident"]) == in_memory,
        list_s=list_s,
        models_s=time.perf_counter() - started,
    )
    say(f"{found.requests} requests over {active} of {listed} adapters: {failed} failed, {wrong} of {judged} wrong")
    return found


def _zipf(names: Sequence[str], count: int) -> list[str]:
    weights = np.array(zipf_weights(len(names), _ZIPF))
    return [str(name) for name in np.random.default_rng(5).choice(names, count, p=weights / weights.sum())]


def _asked(server: BenchGateway, name: str) -> dict[str, float] | None:
    try:
        return dict(server.fingerprint(name))
    except httpx.HTTPError:
        return None


def _kill(server: BenchGateway, names: Sequence[str], say: Say) -> EngineKill:
    """Kill the engine with these adapters in use and time how long until all answer as before."""
    before = server.fingerprints(names)
    url = str(server.engine()["url"])
    server.kill_engine()
    wait_for(lambda: server.http.get("/ready").status_code != httpx.codes.OK)
    start_s = wait_for(lambda: httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK)
    healthy = time.perf_counter()
    server.wait_until_ready()
    ready_s = time.perf_counter() - healthy
    after = server.fingerprints(names)
    back_s = time.perf_counter() - healthy
    wrong = sum(closest(after[name], before) != name for name in names)
    say(f"killed with {len(names)} in use: ready {ready_s:.1f} s, all back {back_s:.1f} s after the engine's own start")
    return EngineKill(adapters=len(names), engine_start_s=start_s, ready_s=ready_s, back_s=back_s, wrong=wrong)
