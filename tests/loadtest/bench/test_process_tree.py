"""CPU time and memory are those of the whole tree, ended children included."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from loadtest.bench.machine import Process, cpu_s, read_processes, rss_mib, tree_of

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
WAITING = "print('ready', flush=True); input()"


@contextmanager
def python(program: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said `ready` and waits for a line."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.communicate("\n")


def test_a_child_that_burned_cpu_and_ended_is_counted() -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"
    with python(f"{child}; {WAITING}") as process:
        assert cpu_s(process.pid) >= 0.29


def test_a_running_child_is_counted() -> None:
    child = "held = bytearray(b'x') * (80 << 20); print('ready', flush=True); input()"
    start = f"import subprocess as s, sys; c = s.Popen([sys.executable, '-c', {child!r}], stdin=s.PIPE, stdout=s.PIPE)"
    with python(f"{start}; c.stdout.readline(); {WAITING}; c.communicate(b'\\n')") as process:
        assert len(tree_of(process.pid, read_processes())) == 2
        assert rss_mib(process.pid) > 80


def test_a_process_of_the_session_counts_when_its_parent_is_gone() -> None:
    leader, orphan, stranger = Process(10, 1, 10, 1.0, 0), Process(12, 1, 10, 2.0, 0), Process(13, 1, 1, 4.0, 0)
    grandchild = Process(14, 12, 14, 8.0, 0)
    assert tree_of(10, [grandchild, stranger, orphan, leader]) == [grandchild, orphan, leader]
