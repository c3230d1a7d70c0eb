"""The directories of runs: a run is written to a hidden staging folder and renamed when it is complete.

    <data dir>/runs/.<name>-<utc time>.partial/     running or interrupted: checkpoint, metrics so far
    <data dir>/runs/<name>-<utc time>/              complete and fit to serve
    <data dir>/runs/latest                          a symbolic link to the run completed last

An interrupted run with a checkpoint is kept and can be resumed; any other incomplete run is removed. The staging folder
is locked by the process that writes it; the lock of a killed process is free.
"""

import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from trainer.errors import RunError
from trainer.files import disk
from trainer.training.checkpoint import checkpoint_folders

RUNS_FOLDER = "runs"
LATEST = "latest"
_SUFFIX = ".partial"
_LOCK = ".lock"


def default_directory(data_dir: Path, name: str) -> Path:
    """Return a new run directory, named after the recipe and the time, and numbered within one second."""
    stem = data_dir / RUNS_FOLDER / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    numbered = (stem.with_name(f"{stem.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([stem], numbered) if not _taken(path))


def interrupted_run(data_dir: Path, name: str) -> Path:
    """Return the final directory of the latest interrupted run of this name; raises `RunError` when there is none."""
    found = [path for path in (data_dir / RUNS_FOLDER).glob(f".{name}-*{_SUFFIX}") if checkpoint_folders(path)]
    if not found:
        raise RunError(
            f"there is no interrupted run of {name} in {data_dir / RUNS_FOLDER}; start one without --resume, or name "
            "its directory with --out."
        )
    latest = max(found, key=lambda path: path.stat().st_mtime_ns)
    return latest.with_name(latest.name.removeprefix(".").removesuffix(_SUFFIX))


def files_in_runs(runs: Path, name: str) -> list[Path]:
    """List the file of that name in every run below a folder, each run once."""
    return [path for path in sorted(runs.glob(f"*/{name}")) if not path.parent.is_symlink()]


@contextlib.contextmanager
def staged(final: Path, *, resume: bool = False) -> Iterator[Path]:
    """Yield a staging folder that is renamed to `final` on success; on failure it is kept only if it can be resumed.

    Raises `RunError` when `final` exists, when another process writes it, or when there is an interrupted run and
    `resume` is not set.
    """
    _refuse_existing(final)
    staging = staging_folder(final)
    with _locked(final, staging):
        try:
            _refuse_wrong_resume(final, staging, resume=resume)
            if not resume:
                _empty(staging)
            yield staging
            with disk(final):
                (staging / _LOCK).unlink()
                staging.rename(final)
                _point_latest(final)
        finally:
            if not checkpoint_folders(staging):
                shutil.rmtree(staging, ignore_errors=True)


def staging_folder(final: Path) -> Path:
    """Return the folder of a run while it is incomplete."""
    return final.with_name(f".{final.name}{_SUFFIX}")


@contextlib.contextmanager
def _locked(final: Path, staging: Path) -> Iterator[None]:
    """Make the staging folder and lock it within the block; raises `RunError` when another process has locked it."""
    with disk(final):
        staging.mkdir(parents=True, exist_ok=True)
        lock = (staging / _LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = (staging / _LOCK).stat().st_ino == os.fstat(lock.fileno()).st_ino
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:  # or that process has just finished with this folder
            raise RunError(f"another process is writing {final}; wait for it, or give another --out.")
        _refuse_existing(final)
        yield


def _empty(staging: Path) -> None:
    """Remove what a killed process left in the folder, but not the lock."""
    with disk(staging):
        for path in staging.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()


def _refuse_existing(final: Path) -> None:
    if final.exists():
        raise RunError(f"{final} exists already; give another --out or move it away.")


def _point_latest(final: Path) -> None:
    """Point the link `latest` beside the runs to this one, atomically; a file or folder of that name is left alone."""
    latest = final.with_name(LATEST)
    if final.parent.name != RUNS_FOLDER or (latest.exists() and not latest.is_symlink()):
        return
    with (
        contextlib.suppress(OSError),  # not every file system has symbolic links
        tempfile.TemporaryDirectory(prefix=f".{LATEST}-", dir=final.parent) as scratch,
    ):
        link = Path(scratch) / LATEST
        link.symlink_to(final.name)
        link.replace(latest)


def _refuse_wrong_resume(final: Path, staging: Path, *, resume: bool) -> None:
    has_checkpoint = bool(checkpoint_folders(staging))
    if resume and not has_checkpoint:
        raise RunError(f"{final} has no interrupted run to continue; start it without --resume.")
    if has_checkpoint and not resume:
        raise RunError(f"{final} was interrupted; continue it with --resume, or remove {staging}.")


def _taken(path: Path) -> bool:
    return path.exists() or staging_folder(path).exists()
