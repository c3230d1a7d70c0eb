"""The guard: an engine never outlives its gateway, however either of them dies. Real processes, no engine needed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import eventually

# A stand-in for the gateway: opens the pipe, starts the guard as the gateway does, says the guard's group, and waits.
GATEWAY = """
import os, subprocess, sys
read_end, write_end = os.pipe()
guard = subprocess.Popen([sys.executable, "-m", "gateway.engines.process_guard", str(read_end), *sys.argv[1:]],
                         pass_fds=(read_end,), start_new_session=True)
os.close(read_end)
print(guard.pid, flush=True)
sys.stdin.read()
os.close(write_end)
sys.exit(guard.wait())
"""
# A stand-in for the engine: a parent with a worker child, as vLLM has, both deaf to SIGTERM.
ENGINE = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
time.sleep(600)
"""


def group_members(group: int) -> set[int]:
    """Living processes of a process group."""
    members = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(stat[2]) == group and stat[0] != "Z":
                members.add(int(entry.name))
    return members


def engine_of(guard: int) -> int:
    """The guard's child; numbers say nothing about who began first, since they start again from the lowest."""
    (engine,) = (int(pid) for pid in Path(f"/proc/{guard}/task/{guard}/children").read_text().split())
    return engine


def eventually_members(group: int, count: int) -> set[int]:
    assert eventually(lambda: len(group_members(group)) == count), f"group {group} has {group_members(group)}"
    return group_members(group)


@pytest.fixture
def gateway() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", GATEWAY, sys.executable, "-c", ENGINE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def started_group(gateway: "subprocess.Popen[str]") -> int:
    assert gateway.stdout is not None
    group = int(gateway.stdout.readline())
    eventually_members(group, 3)
    return group


def test_killing_the_gateway_ends_guard_engine_and_workers(gateway: "subprocess.Popen[str]") -> None:
    group = started_group(gateway)
    gateway.send_signal(signal.SIGKILL)
    eventually_members(group, 0)


def test_killing_the_engine_ends_its_workers_and_the_guard(gateway: "subprocess.Popen[str]") -> None:
    group = started_group(gateway)
    engine = engine_of(group)
    os.kill(engine, signal.SIGKILL)
    eventually_members(group, 0)
    assert gateway.stdin is not None
    gateway.stdin.close()
    assert gateway.wait() == 128 + signal.SIGKILL


def test_killing_the_guard_ends_the_engine(gateway: "subprocess.Popen[str]") -> None:
    group = started_group(gateway)
    engine = engine_of(group)
    os.kill(group, signal.SIGKILL)
    try:
        # vLLM's own workers notice that their parent is gone; the stand-in's does not, so it is ended here.
        assert eventually(lambda: engine not in group_members(group))
    finally:
        os.killpg(group, signal.SIGKILL)
