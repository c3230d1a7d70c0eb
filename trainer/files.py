"""Writing files so that an interruption leaves the old state or the new one, and a full disk is one clear sentence."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from trainer.errors import RunError


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn a failure to write at `path` into a `RunError` that says what to do about it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"{path} cannot be written ({reason}); free space, fix permissions or choose another place."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with disk(path), os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            os.fchmod(file.fileno(), 0o644)
        with disk(path):
            Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
