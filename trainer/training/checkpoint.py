"""Save and resume a run: checkpoints, written whole or not at all, and Ctrl-C as a request to save one.

    <run>/checkpoint-000120/state.json              the step, and the hashes that identify the run
                            optimiser.safetensors   fp32 master weights and AdamW's moments
                            best.safetensors        the weights of the best epoch so far, if there is one

The order of rows and the random numbers of a step are functions of seed and step, so they are not saved.
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from trainer.errors import RunError
from trainer.files import disk

if TYPE_CHECKING:
    import torch


WORLD_SIZE = "world size"  # a name in `identity`; its value is told to the user
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PREFIX = "checkpoint-"
_STATE, _OPTIMIZER, _BEST = "state.json", "optimiser.safetensors", "best.safetensors"


@dataclass(slots=True)
class LoopState:
    """The progress of a run. `losses` has the eval loss before training and of each evaluation.

    `rewards` are those of the best evaluation.
    """

    step: int = 0
    input_tokens: int = 0
    steps_s: float = 0.0
    loss_sum: float = 0.0
    losses: list[float] | None = None
    best_epoch: float | None = None
    rewards: dict[str, float] | None = None
    max_tokens: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as read from disk."""

    state: LoopState
    optimizer: "dict[str, torch.Tensor]"
    best: "dict[str, torch.Tensor] | None"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run in `folder`; `identity` has the hashes of everything that decides its weights."""

    folder: Path
    identity: Mapping[str, str]

    def save(
        self,
        state: LoopState,
        optimizer: "Mapping[str, torch.Tensor]",
        best: "Mapping[str, torch.Tensor] | None",
    ) -> Path:
        """Write a checkpoint, then remove the older ones."""
        from safetensors.torch import save_file

        final = self.folder / f"{_PREFIX}{state.step:06d}"
        staging = final.with_name(f".{final.name}.partial")
        with disk(final):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            save_file(dict(optimizer), staging / _OPTIMIZER)
            if best is not None:
                save_file(dict(best), staging / _BEST)
            document = {"identity": dict(self.identity), "state": asdict(state)}
            (staging / _STATE).write_text(json.dumps(document, indent=1), encoding="utf-8")
            _sync(staging)
            older = [path for path in self._all() if path != final]
            shutil.rmtree(final, ignore_errors=True)
            staging.rename(final)
            for path in older:
                shutil.rmtree(path)
        return final

    def load(self) -> Checkpoint | None:
        """Load the latest checkpoint, or None when there is none; raises `RunError` when it belongs to another run."""
        from safetensors.torch import load_file

        found = self._all()
        if not found:
            return None
        latest = found[-1]
        document = json.loads((latest / _STATE).read_bytes())
        self._refuse_other_run(document["identity"])
        best = latest / _BEST
        return Checkpoint(
            LoopState(**document["state"]),
            load_file(latest / _OPTIMIZER),
            load_file(best) if best.is_file() else None,
        )

    def remove(self) -> None:
        """Remove all checkpoints of a complete run."""
        for path in self._all():
            shutil.rmtree(path, ignore_errors=True)

    def _all(self) -> list[Path]:
        return checkpoint_folders(self.folder)

    def _refuse_other_run(self, identity: Mapping[str, str]) -> None:
        changed = [name for name in self.identity if identity.get(name) != self.identity[name]]
        if changed == [WORLD_SIZE]:
            raise RunError(
                f"{self.folder} was started with world size {identity.get(WORLD_SIZE)} and cannot be resumed with "
                f"{self.identity[WORLD_SIZE]}; launch as many processes as before, or start a new run without --resume."
            )
        if changed:
            raise RunError(
                f"{self.folder} was started with another {' and '.join(changed)}, so it cannot be resumed; restore "
                "the earlier one, or start a new run without --resume."
            )


def checkpoint_folders(folder: Path) -> list[Path]:
    """List the complete checkpoints in a run's folder, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / _STATE).is_file())


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


class StopRequest:
    """Record the first SIGINT or SIGTERM within the block; a second one has its usual effect."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._requested = False

    def requested(self) -> bool:
        """Whether a signal has asked the run to stop."""
        return self._requested

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        self._requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
