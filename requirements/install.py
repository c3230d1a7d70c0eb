"""Install the pinned lists into a virtual environment: `python3 requirements/install.py .venv gateway engine-cpu`.

Runs before anything is installed, so it uses the standard library alone, and parses under any Python 3 so that an
unsuitable one is refused in a sentence. Lists are installed with --no-deps. torch is PyTorch's CPU build: from the
indexes and folders that uv is configured with (UV_INDEX, UV_FIND_LINKS, PIP_FIND_LINKS) when they have it, else from
PyTorch's own index, because PyPI's torch for Linux is a CUDA build that does not import without NVIDIA's libraries.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

# Old Pythons must come as far as the refusal.
from typing import Dict, List, NoReturn, Optional, Tuple

REQUIREMENTS = Path(__file__).resolve().parent
UV = "uv==0.13.9"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
ENGINE = "engine-cpu"
PYTHONS = ((3, 11), (3, 12), (3, 13))
LEAST_GLIBC = (2, 31)
GATEWAY_ALONE = (
    "on this machine install the gateway alone with `pip install --no-deps -r requirements/gateway.txt .` "
    "and attach it to an engine elsewhere with `turntable serve --engine-url http://HOST:8000`"
)


def machine_refusal(system: str, machine: str, bits: int, libc: Tuple[str, str]) -> Optional[str]:
    """Return why vLLM's CPU build cannot be installed on a machine; None when it can."""
    here = None
    if system != "Linux" or machine not in ("x86_64", "AMD64") or bits != 64:
        here = "{} {} ({} bits)".format("macOS" if system == "Darwin" else system, machine, bits)
    elif libc[0] != "glibc" or tuple(map(int, re.findall(r"\d+", libc[1])[:2])) < LEAST_GLIBC:
        here = "{} {}".format(*libc) if libc[0] else "a Linux without glibc"
    if here is None:
        return None
    return (
        "this is {}, and vLLM's CPU build with its pinned packages exists for Linux x86-64 with glibc {}.{} or newer "
        "only; {}".format(here, *LEAST_GLIBC, GATEWAY_ALONE)
    )


def python_refusal(version: Tuple[int, int], implementation: str) -> Optional[str]:
    """Return why this Python is not supported; None when it is."""
    if implementation == "CPython" and version in PYTHONS:
        return None
    return (
        "this is {} {}.{}, and Python 3.11, 3.12 or 3.13 is needed; install one of them, or name one with "
        "PYTHON=/path/to/python3.11".format(implementation, *version)
    )


def uv_environment(environment: Dict[str, str]) -> Dict[str, str]:
    """Return the environment for uv, with pip's extra folders, which uv does not read by itself."""
    folders = environment.get("UV_FIND_LINKS") or environment.get("PIP_FIND_LINKS")
    return dict(environment, UV_FIND_LINKS=folders.replace(" ", ",")) if folders else dict(environment)


def torch_version() -> str:
    """Return the version of torch that the engine's list pins."""
    found = re.search(r"(?m)^torch==(\S+)$", (REQUIREMENTS / f"{ENGINE}.txt").read_text())
    assert found, "requirements/engine-cpu.txt pins no torch"
    return found.group(1)


def torch_options(uv: List[str], version: str, environment: Dict[str, str]) -> List[str]:
    """Return uv's options for the CPU build: none when the configured sources offer it, else PyTorch's index."""
    asked = f"torch=={version}+cpu"
    command = [*uv, "pip", "compile", "--quiet", "--no-header", "--no-deps", "--python", sys.executable, "-"]
    found = subprocess.run(command, input=asked, env=environment, capture_output=True, text=True, check=False)
    return [] if found.returncode == 0 and asked in found.stdout else ["--index", TORCH_INDEX]


def install(venv: Path, lists: List[str]) -> None:
    """Make or update the environment; raises SystemExit with a sentence when a step fails."""
    python, uv, environment = str(venv / "bin" / "python"), [str(venv / "bin" / "uv")], uv_environment(dict(os.environ))
    print("setup: virtual environment")
    _run([sys.executable, "-m", "venv", str(venv)], environment, "on Debian and Ubuntu install python3-venv")
    _run([python, "-m", "pip", "install", "--quiet", UV], environment, "uv cannot be installed by pip, see above")
    pip = [*uv, "pip", "install", "--quiet", "--python", python, "--no-deps"]
    if ENGINE in lists:
        print("setup: PyTorch's CPU build")
        version = torch_version()
        remedy = (
            f"PyTorch's CPU build is not on the package index and cannot be fetched from {TORCH_INDEX}; name a mirror "
            "or folder that has it with UV_INDEX or UV_FIND_LINKS and run this again"
        )
        options = torch_options(uv, version, environment)
        _run([*pip, *options, f"torch=={version}+cpu"], environment, remedy)
    print("setup: packages (pinned, about 3 GB unpacked)")
    files = [part for name in lists for part in ("-r", str(REQUIREMENTS / f"{name}.txt"))]
    _run([*pip, "--compile-bytecode", *files], environment, "uv's message above names the package")
    _run([*pip, "--editable", str(REQUIREMENTS.parent)], environment, "uv's message above says why")
    if ENGINE in lists:
        _run([python, "-c", "import torch"], environment, "the installed torch does not import, see above")


def _run(command: List[str], environment: Dict[str, str], remedy: str) -> None:
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        _fail("`{}` failed: {}".format(" ".join(command[:4]), remedy))


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}.", file=sys.stderr)
    raise SystemExit(2)


def main(venv: str, *lists: str) -> None:
    """Refuse an unsuitable machine or Python, else install."""
    refusal = python_refusal(sys.version_info[:2], platform.python_implementation())
    if ENGINE in lists:
        bits = 64 if sys.maxsize > 2**32 else 32
        refusal = machine_refusal(platform.system(), platform.machine(), bits, platform.libc_ver()) or refusal
    if refusal:
        _fail(refusal)
    install(Path(venv), list(lists))


if __name__ == "__main__":
    main(*sys.argv[1:])
