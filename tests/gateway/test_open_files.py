"""`turntable serve` under `ulimit -n`: it makes room, or says with numbers what it goes without."""

import contextlib
import re
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from loadtest.mock_engine.app import serving
from tests.conftest import TURNTABLE
from tests.gateway.conftest import wait_until_ready


@contextlib.contextmanager
def served_under(ulimit: str, data_dir: Path, *options: str) -> Iterator[tuple[list[str], int]]:
    """The lines that a gateway announces which a shell starts after `ulimit`, and its process id."""
    with serving() as engine:
        command = [TURNTABLE, "serve", "--port", "0", "--data-dir", str(data_dir), "--engine-url", engine.url, *options]
        shell = ["bash", "-c", f'ulimit {ulimit}; exec "$@"', "bash", *command]
        with subprocess.Popen(shell, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if "listening on" in line:
                    wait_until_ready(line.split()[3])
                    break
            yield lines, process.pid
            process.terminate()
            process.communicate()


def test_the_soft_limit_is_raised_to_what_the_settings_need(tmp_path: Path) -> None:
    with served_under("-Sn 256", tmp_path) as (lines, pid):
        assert not any("open files" in line for line in lines)
        soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        assert soft >= 4096 + 1024


def test_under_a_hard_limit_fewer_connections_are_taken_and_the_start_says_how_many(tmp_path: Path) -> None:
    with served_under("-n 256", tmp_path) as (lines, _):
        told = next(line for line in lines if "open files" in line)
        assert "256 open files are allowed (ulimit -n) and max_connections=4096 needs 5250" in told
        assert "`ulimit -n 5250`" in told
        most = int(re.search(r"so (\d+) connections", told)[1])  # type: ignore[index]
        url = lines[-1].split()[3]
        host, port = url.removeprefix("http://").split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(300):  # far more than there are files
                idle = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            assert b"limit of " + str(most).encode() + b" connections" in idle.recv(65536)
        assert httpx.get(f"{url}/health").status_code == 200


def test_a_limit_that_allows_no_connection_is_an_error_sentence(tmp_path: Path) -> None:
    with served_under("-n 136", tmp_path) as (lines, _):
        assert lines[-1].startswith("error: 136 open files are allowed (ulimit -n), too few to serve; raise it")
