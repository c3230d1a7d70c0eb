"""Process guard: run an engine so that none of its processes outlives the gateway, even after `kill -9`.

Run as `python -m gateway.engines.process_guard FD COMMAND…` in its own process group. FD is the read end of a pipe
whose write end only the gateway holds: when it closes, the guard stops the whole group. Standard library only, so that
it starts at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_TERM_TIMEOUT_S = 3.0
"""How long the engine has to exit after SIGTERM before it gets SIGKILL."""


def main() -> int:
    """Run the command until it exits or the gateway dies; returns its exit code, 128 + n after signal n."""
    pipe, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(pipe, False)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = subprocess.Popen(command, preexec_fn=_die_with_guard)  # noqa: S603 - the command is the gateway's own
    threading.Thread(target=_stop_engine_when_closed, args=(pipe, engine), daemon=True).start()
    code = engine.wait()
    _kill_rest_of_group()
    return code if code >= 0 else 128 - code


def _die_with_guard() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the gateway, which stops the engine last
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop_engine_when_closed(pipe: int, engine: "subprocess.Popen[bytes]") -> None:
    os.read(pipe, 1)
    engine.terminate()
    deadline = time.monotonic() + _TERM_TIMEOUT_S
    while engine.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    engine.kill()


def _kill_rest_of_group() -> None:
    # The engine's workers share the group. So does the guard, which is left out because it still has to exit.
    group = os.getpgid(0)
    for entry in (path.name for path in Path("/proc").iterdir()):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                if os.getpgid(int(entry)) == group:
                    os.kill(int(entry), signal.SIGKILL)
            except ProcessLookupError:
                continue


if __name__ == "__main__":
    sys.exit(main())
