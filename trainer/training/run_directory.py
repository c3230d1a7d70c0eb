"""The directories of runs: a run is written to a hidden staging folder and renamed when it is complete.

    <data dir>/runs/.<name>-<utc time>.partial/     running or interrupted: checkpoint, metrics so far
    <data dir>/runs/<name>-<utc time>/              complete and fit to serve
    <data dir>/runs/latest                          a symbolic link to the run completed last

An interrupted run with a checkpoint is kept and can be resumed; any other incomplete run is removed.
"""

import contextlib
import itertools
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

    Raises `RunError` when `final` exists, or when there is an interrupted run and `resume` is not set.
    """
    if final.exists():
        raise RunError(f"{final} exists already; give another --out or move it away.")
    staging = staging_folder(final)
    _refuse_wrong_resume(final, staging, resume=resume)
    with disk(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
    try:
        yield staging
        with disk(final):
            staging.rename(final)
            _point_latest(final)
    finally:
        if not checkpoint_folders(staging):
            shutil.rmtree(staging, ignore_errors=True)


def staging_folder(final: Path) -> Path:
    """Return the folder of a run while it is incomplete."""
    return final.with_name(f".{final.name}{_SUFFIX}")


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
