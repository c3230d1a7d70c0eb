"""Logs of a managed engine: one file per start, the last ones kept, and what the newest says about a failure.

What engines are called: in metrics, in the ledger, on the bill, in `costs.toml`.

A managed vLLM process: its command, its environment, its log, its start and its end.
"""

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

_KEPT = 5
_READ_BYTES = 64_000
_ERROR = re.compile(r"^(?:[\w.]*(?:Error|Exception)(?::.*)?|.*(?:out of memory|Segmentation fault).*)$")
_PREFIX = re.compile(r"^(?:\(\w[^)]*\) )?(?:(?:ERROR|CRITICAL|WARNING|INFO) [\d-]+ [\d:]+ \[[^]]*\] )?")
# What follows from another failure, and explains nothing.
_CONSEQUENCE = ("EngineDeadError", "CancelledError", "ChildProcessError", "Engine core initialization failed")


def rotate(log: Path) -> None:
    """Make room for a new log: engine.log becomes engine.1.log, and so on; the oldest goes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if not log.exists() or not log.stat().st_size:
        return
    for number in range(_KEPT - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            _numbered(log, number).replace(_numbered(log, number + 1))
    log.replace(_numbered(log, 1))


def last_error(log: Path) -> str:
    """The newest line that names an error and is not merely a consequence of one, without vLLM's prefix."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _READ_BYTES))
        lines = [_PREFIX.sub("", line).strip() for line in file.read().decode(errors="replace").splitlines()]
        errors = [line for line in lines if _ERROR.match(line)]
        causes = [line for line in errors if not any(word in line for word in _CONSEQUENCE)]
        if found := causes or errors:
            return found[-1][:300]
    return "it left no error in its log"


def _numbered(log: Path, number: int) -> Path:
    return log.with_suffix(f".{number}{log.suffix}")


_LONGEST = 64


def engine_names(settings: Settings, urls: Sequence[str], *, is_managed: bool) -> list[str]:
    """A name for each engine: `engine-0`, `engine-1` … with the database in the data directory.

    In any other, which several gateways may share, an engine has the same name in all of them, and no two engines have
    one: attached ones are called by host and port, a managed one by the id of its gateway.
    """
    if not settings.database_url:
        return [f"engine-{number}" for number in range(len(urls))]
    if is_managed:
        return [f"engine-{gateway_id(settings.ledger_dir)[:8]}"]
    return [_address(url) for url in urls]


def _address(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    name = f"{parts.hostname}:{port}{parts.path.rstrip('/').replace('/', '_')}"
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


_STOP_GRACE_S = 15.0


@dataclass(frozen=True)
class EngineSpec:
    """How to start vLLM for one base model on this machine. The engine listens on loopback and never asks a hub."""

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
        """The command line; the module form, because the CPU build's `vllm` command does not start."""
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
        """Runtime loading on, hub and usage reports off, no plugin but ours, nothing imported from where we stand."""
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
    """One running vLLM under its guard."""

    def __init__(self, process: asyncio.subprocess.Process, pipe: int, log_path: Path) -> None:
        self._process = process
        self._pipe: int | None = pipe
        self.log_path = log_path

    @classmethod
    async def start(cls, spec: EngineSpec, api_key: str) -> "EngineProcess":
        """Start vLLM in a process group of its own, its output appended to the log; it serves who knows the key."""
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
        """The exit code once the process has ended."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until the engine ends by itself; returns its exit code."""
        return await self._process.wait()

    async def stop(self) -> None:
        """End the whole process group: closing the pipe tells the guard, and killing the guard ends what is left.

        May be called again: the pipe's number belongs to somebody else by then.
        """
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)
        try:
            async with asyncio.timeout(_STOP_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def last_error(self) -> str:
        """The lines of the log that explain a failure, as one sentence."""
        return last_error(self.log_path)


def engine_build() -> str | None:
    """Which vLLM is installed here, as `name version`; None when there is none, and then only attaching is possible."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{name} {metadata.version(name)}"
    return None
