"""The guard between a gateway and its engine: nothing of the engine outlives the gateway, however the gateway dies.

Run as `python -m gateway.engines.process_guard FD COMMAND…` in a process group of its own. FD is the read end of a
pipe whose write end only the gateway holds: when it closes, by intent or by `kill -9`, the guard ends the whole group.
Standard
library only.
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
_GRACE_S = 3.0


def main() -> int:
    """Run the command until it ends or the gateway is gone; returns the command's exit code."""
    pipe, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(pipe, False)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = subprocess.Popen(command, preexec_fn=_die_with_guard)  # noqa: S603 - the command is the gateway's own
    threading.Thread(target=_end_group_when_closed, args=(pipe, engine), daemon=True).start()
    code = engine.wait()
    _kill_rest_of_group()
    return code if code >= 0 else 128 - code


def _die_with_guard() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the gateway, which stops the engine last
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_group_when_closed(pipe: int, engine: "subprocess.Popen[bytes]") -> None:
    os.read(pipe, 1)
    engine.terminate()
    deadline = time.monotonic() + _GRACE_S
    while engine.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    engine.kill()


def _kill_rest_of_group() -> None:
    # The engine's worker processes share the group; the guard itself is in it too, so it goes last and by exit code.
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
