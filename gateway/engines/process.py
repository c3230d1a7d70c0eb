"""Managed vLLM process: command line, environment, log files, start and stop; and the names of engines."""

import asyncio
import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from gateway.engines.plugin.residency import PLUGIN
from gateway.metering.gateways import gateway_id
from gateway.settings import Settings, inherited_environment

_STOP_TIMEOUT_S = 15.0
_KEPT_LOGS = 5
_LOG_TAIL_BYTES = 64_000
_MAX_NAME_LENGTH = 64
_ERROR_LINE = re.compile(r"^(?:[\w.]*(?:Error|Exception)(?::.*)?|.*(?:out of memory|Segmentation fault).*)$")
_LOG_PREFIX = re.compile(r"^(?:\(\w[^)]*\) )?(?:(?:ERROR|CRITICAL|WARNING|INFO) [\d-]+ [\d:]+ \[[^]]*\] )?")
_CONSEQUENCES = ("EngineDeadError", "CancelledError", "ChildProcessError", "Engine core initialization failed")
"""Errors that only follow from another one and explain nothing."""


@dataclass(frozen=True)
class EngineSpec:
    """Options of a vLLM process for one base model; it listens on loopback and never contacts a model hub."""

    model_path: Path
    served_model_name: str
    port: int
    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    max_model_len: int | None
    kv_cache_gib: int
    extra_args: tuple[str, ...]
    log_path: Path

    def command(self) -> list[str]:
        """Return the command line, in the `python -m` form: the CPU build's `vllm` command does not start."""
        arguments: dict[str, object] = {
            "--model": self.model_path,
            "--served-model-name": self.served_model_name,
            "--host": "127.0.0.1",
            "--port": self.port,
            "--max-loras": self.max_loras,
            "--max-cpu-loras": self.max_cpu_loras,
            "--max-lora-rank": self.max_lora_rank,
            "--uvicorn-log-level": "warning",
        }
        if self.max_model_len is not None:
            arguments["--max-model-len"] = self.max_model_len
        pairs = [text for pair in arguments.items() for text in map(str, pair)]
        return [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            *pairs,
            "--enable-lora",
            "--enable-prompt-tokens-details",
            *self.extra_args,
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment: runtime LoRA loading on, hub access and usage reports off, only our plugins.

        PYTHONSAFEPATH keeps the working directory off the import path.
        """
        return inherited_environment() | {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_PLUGINS": f"turntable_patches,{PLUGIN}",
            "PYTHONSAFEPATH": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
        }


class EngineProcess:
    """A running vLLM under its process guard."""

    def __init__(self, process: asyncio.subprocess.Process, pipe: int, log_path: Path) -> None:
        self._process = process
        self._pipe: int | None = pipe
        self.log_path = log_path

    @classmethod
    async def start(cls, spec: EngineSpec, api_key: str) -> "EngineProcess":
        """Start vLLM in its own process group, with its output in the log; clients need `api_key`."""
        rotate(spec.log_path)
        read_end, write_end = os.pipe()
        guard = [sys.executable, "-m", "gateway.engines.process_guard", str(read_end)]
        try:
            with spec.log_path.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *guard,
                    *spec.command(),
                    env=spec.environment() | {"VLLM_API_KEY": api_key},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(read_end,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        return cls(process, write_end, spec.log_path)

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until the process exits; returns its exit code."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop the whole process group: closing the pipe signals the guard; a guard that stays is killed.

        Calling it again is safe.
        """
        pipe, self._pipe = self._pipe, None  # closed once only: its number may be another file's by then
        if pipe is not None:
            os.close(pipe)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def last_error(self) -> str:
        """Return the log line that explains a failure."""
        return last_error(self.log_path)


def engine_build() -> str | None:
    """Return the installed vLLM as `name version`; None when there is none: then engines can only be attached."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{name} {metadata.version(name)}"
    return None


def engine_names(settings: Settings, urls: Sequence[str], *, is_managed: bool) -> list[str]:
    """Name the engines for metrics, ledger, bill and `costs.toml`: `engine-0`, `engine-1` …

    With a database of its own (`database_url`), which several gateways may share, a name is unique and the same in all
    of them: attached engines are named by host and port, a managed one by the id of its gateway.
    """
    if not settings.database_url:
        return [f"engine-{number}" for number in range(len(urls))]
    if is_managed:
        return [f"engine-{gateway_id(settings.ledger_dir)[:8]}"]
    return [_address(url) for url in urls]


def rotate(log: Path) -> None:
    """Rotate the log: rename engine.log to engine.1.log, and so on; the oldest is overwritten."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if not log.exists() or not log.stat().st_size:
        return
    for number in range(_KEPT_LOGS - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            _numbered(log, number).replace(_numbered(log, number + 1))
    log.replace(_numbered(log, 1))


def last_error(log: Path) -> str:
    """Return the newest line of a log that names an error, not a consequence of one, without vLLM's prefix."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        lines = [_LOG_PREFIX.sub("", line).strip() for line in file.read().decode(errors="replace").splitlines()]
        errors = [line for line in lines if _ERROR_LINE.match(line)]
        causes = [line for line in errors if not any(word in line for word in _CONSEQUENCES)]
        if found := causes or errors:
            return found[-1][:300]
    return "no error was logged"


def _numbered(log: Path, number: int) -> Path:
    return log.with_suffix(f".{number}{log.suffix}")


def _address(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    name = f"{parts.hostname}:{port}{parts.path.rstrip('/').replace('/', '_')}"
    if len(name) <= _MAX_NAME_LENGTH:
        return name
    return f"{name[: _MAX_NAME_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
