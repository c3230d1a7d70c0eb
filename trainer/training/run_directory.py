"""Where a run lives: in a hidden neighbour of its final place while it runs, renamed when it is complete.

    <data dir>/runs/.<name>-<utc time>.partial/     running or interrupted: checkpoint, metrics so far
    <data dir>/runs/<name>-<utc time>/              complete and fit to serve
    <data dir>/runs/latest                          a link to the one that was completed last

An interrupted run that has a checkpoint stays and can be continued; anything else that is incomplete is removed.
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
    """Where a run goes when nobody says where: named by the recipe and the time, numbered within one second."""
    stem = data_dir / RUNS_FOLDER / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    numbered = (stem.with_name(f"{stem.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([stem], numbered) if not _taken(path))


def interrupted_run(data_dir: Path, name: str) -> Path:
    """The final place of the latest interrupted run of this name; raises `RunError` when there is none."""
    found = [path for path in (data_dir / RUNS_FOLDER).glob(f".{name}-*{_SUFFIX}") if checkpoint_folders(path)]
    if not found:
        raise RunError(
            f"there is no interrupted run of {name} in {data_dir / RUNS_FOLDER}; start one without --resume, or name "
            "its directory with --out."
        )
    latest = max(found, key=lambda path: path.stat().st_mtime_ns)
    return latest.with_name(latest.name.removeprefix(".").removesuffix(_SUFFIX))


def files_in_runs(runs: Path, name: str) -> list[Path]:
    """That file of every run below a folder, each run once, by name."""
    return [path for path in sorted(runs.glob(f"*/{name}")) if not path.parent.is_symlink()]


@contextlib.contextmanager
def staged(final: Path, *, resume: bool = False) -> Iterator[Path]:
    """A folder that becomes `final` when the block ends well; when it does not, it stays only if it can be continued.

    Raises `RunError` when `final` exists, or when an interrupted run is there and `resume` does not ask for it.
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
    """Where a run is while it is incomplete."""
    return final.with_name(f".{final.name}{_SUFFIX}")


def _point_latest(final: Path) -> None:
    """Have `latest` beside the runs mean this one, at once for whoever looks; what is no link is somebody's own."""
    latest = final.with_name(LATEST)
    if final.parent.name != RUNS_FOLDER or (latest.exists() and not latest.is_symlink()):
        return
    with (
        contextlib.suppress(OSError),  # a disk without links keeps its runs all the same
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
