"""Run the side-by-side benchmark: start and warm every system per stage, then measure them in turn, round by round."""

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from loadtest.bench import machine
from loadtest.bench.client import (
    LOAD,
    LOAD70,
    PLAIN,
    PLAIN_WORDS,
    STAGES,
    STREAM_WORDS,
    STREAMS256,
    Phase,
    PhaseOutcome,
    Stage,
    run_phase,
    workload_phase,
)
from loadtest.bench.results import Result, Sample
from loadtest.bench.systems import DIRECT, SYSTEMS, TURNTABLE, Running, running_engine, running_system
from loadtest.metrics import Distribution

WARM_UP_S = 1.0
SOAK_BLOCKS = 20
SOAK_BLOCK_LIMIT_S = 600
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PhaseMeter:
    """Runs phases in the client process and measures the CPU time of client, system and engine."""

    client: Executor
    engine: Running

    def run(self, system: Running, phase: Phase) -> tuple[PhaseOutcome, dict[str, float]]:
        """Run one phase; returns its outcome and the CPU seconds of system, engine and whole machine."""
        before = self._cpu_s(system)
        outcome = self.client.submit(run_phase, phase).result()
        after = self._cpu_s(system)
        return outcome, {name: after[name] - before[name] for name in after}

    def _cpu_s(self, system: Running) -> dict[str, float]:
        return {
            "machine": machine.machine_cpu_s(),
            "engine": machine.cpu_s(self.engine.pid),
            "system": machine.cpu_s(system.pid),
        }


def measure(result: Result, names: list[str], venvs: Path, say: Say) -> None:
    """Fill a result with cold starts and samples."""
    spawning = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as client, tempfile.TemporaryDirectory() as folder:
        for index, stage in enumerate(STAGES):
            place = Path(folder) / str(index)
            place.mkdir()
            with ExitStack() as stack:
                engine = stack.enter_context(running_engine(place, stage.itl_ms, STREAM_WORDS))
                servers = [replace(engine, name=DIRECT)]
                for name in names:
                    if name != DIRECT:
                        say(f"starting {name}")
                        started = running_system(SYSTEMS[name], engine, place / name, venvs)
                        servers.append(stack.enter_context(started))
                        result.cold_start_s.setdefault(name, []).append(round(servers[-1].cold_start_s, 3))
                _measure_stage(result, stage, servers, PhaseMeter(client, engine), say)


def _measure_stage(result: Result, stage: Stage, servers: list[Running], meter: PhaseMeter, say: Say) -> None:
    for workload in stage.workloads:
        for server in servers:
            # A slow start of 256 streams is part of that workload: its ramp is the warm-up.
            if workload not in (LOAD70, STREAMS256):
                meter.run(server, workload_phase(workload, server.port, server.key, WARM_UP_S))
        for number in range(1, result.rounds + 1):
            say(f"{workload}, round {number} of {result.rounds}")
            for server in servers:
                if workload == LOAD70:
                    _at_its_load(result, number, server, servers[0], meter)
                else:
                    phase = workload_phase(workload, server.port, server.key, result.seconds)
                    result.samples.append(_sample(workload, number, server, phase, meter))


def _at_its_load(result: Result, number: int, server: Running, direct: Running, meter: PhaseMeter) -> None:
    """Measure latency at 70 % of a system's closed-loop throughput, of the engine alone and then of the system."""
    if server is direct:
        return
    rate_per_s = LOAD * statistics.median(sample.requests_per_s for sample in result.of(server.name, PLAIN))
    for target, beside in ((direct, server.name), (server, "")):
        phase = workload_phase(LOAD70, target.port, target.key, result.seconds, max(rate_per_s, 1), seed=number)
        result.samples.append(_sample(LOAD70, number, target, phase, meter, beside))


def _sample(workload: str, number: int, server: Running, phase: Phase, meter: PhaseMeter, beside: str = "") -> Sample:
    start_s = time.perf_counter()
    outcome, cpu_s = meter.run(server, phase)
    wall_s = time.perf_counter() - start_s
    system_s = cpu_s["system"]
    engine_s = 0.0 if server.name == DIRECT else cpu_s["engine"]
    others_s = max(0.0, cpu_s["machine"] - system_s - engine_s - outcome.client_cpu_s)
    return Sample(
        workload=workload,
        round=number,
        system=server.name,
        beside=beside,
        completed=outcome.completed,
        failed=outcome.failed,
        errors=outcome.errors,
        requests_per_s=round(outcome.completed / outcome.duration_s, 2),
        cpu_us_per_request=round(system_s / outcome.completed * 1e6, 1) if outcome.completed else 0.0,
        rss_mib=round(machine.rss_mib(server.pid), 1),
        system_cores=round(system_s / wall_s, 3),
        client_cores=round(outcome.client_cpu_s / wall_s, 3),
        engine_cores=round(engine_s / wall_s, 3),
        other_cores=round(others_s / wall_s, 3),
        peak_running=outcome.peak_running,
        latency=_figures(outcome.latency),
        ttft=_figures(outcome.ttft),
    )


def _figures(distribution: Distribution | None) -> dict[str, float] | None:
    if distribution is None:
        return None
    return {name: round(value, 3) for name, value in asdict(distribution).items()}


def measure_soak(requests: int, venvs: Path, say: Say) -> tuple[int, list[float]]:
    """Send the requests in blocks; returns how many failed, and Turntable's RSS in MiB before and after each block."""
    failed, per_block = 0, max(1, requests // SOAK_BLOCKS)
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as client,
        tempfile.TemporaryDirectory() as folder,
        running_engine(Path(folder), 0, PLAIN_WORDS) as engine,
        running_system(SYSTEMS[TURNTABLE], engine, Path(folder) / TURNTABLE, venvs) as server,
    ):
        block = Phase(
            server.port, server.key, False, PLAIN_WORDS, SOAK_BLOCK_LIMIT_S, concurrency=16, requests=per_block
        )
        rss_mib = [machine.rss_mib(server.pid)]
        for number in range(1, SOAK_BLOCKS + 1):
            failed += client.submit(run_phase, block).result().failed
            rss_mib.append(round(machine.rss_mib(server.pid), 2))
            say(f"{number * per_block:,} requests: {rss_mib[-1]:.1f} MiB")
    return failed, rss_mib
