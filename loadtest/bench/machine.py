"""Machine description without host names; CPU time and memory of a process tree, from /proc."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


def machine() -> dict[str, str]:
    """Describe the machine: processor, cores, memory, kernel and Python."""
    memory_kib = int((_first("/proc/meminfo", "MemTotal") or "0").split()[0])
    return {
        "processor": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory_kib / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _first(file: str, name: str) -> str:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `cpu_s` is user and system time, with that of its children that ended and were waited for."""

    pid: int
    parent: int
    session: int
    cpu_s: float
    rss_bytes: int


def read_processes() -> list[Process]:
    """List all running processes."""
    found = [_read(int(entry)) for entry in os.listdir(PROC) if entry.isdigit()]  # noqa: PTH208 names are enough
    return [process for process in found if process]


def _read(pid: int) -> Process | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, so count from its end: state is field 3 of proc(5).
    fields = text[text.rindex(")") + 2 :].split()
    ticks = sum(map(int, fields[11:15]))
    return Process(pid, int(fields[1]), int(fields[3]), ticks / TICKS_PER_S, int(fields[21]) * PAGE_BYTES)


def tree_of(root: int, processes: list[Process]) -> list[Process]:
    """Return a process, its descendants, and all processes of the session that it leads."""
    members = {root}
    grown = True
    while grown:
        more = {process.pid for process in processes if process.parent in members or process.session == root}
        grown = not more <= members
        members |= more
    return [process for process in processes if process.pid in members]


def cpu_s(root: int) -> float:
    """Return the CPU seconds that a process tree has used since it began."""
    return sum(process.cpu_s for process in tree_of(root, read_processes()))


def rss_mib(root: int) -> float:
    """Return the resident memory of a process tree in MiB; shared pages count once per process."""
    return sum(process.rss_bytes for process in tree_of(root, read_processes())) / 2**20


def machine_cpu_s() -> float:
    """Return the CPU seconds of all processes since the machine started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, (PROC / "stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICKS_PER_S
