"""tar.gz archives of adapter directories: packed by clients, unpacked by the gateway without trusting them.

Only known file names are taken, as regular files, at the top or one folder down; everything that could write elsewhere
(absolute paths, `..`, links, devices) refuses the whole archive.
"""

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from adapters.errors import ArchiveError
from adapters.manifest import CARD_FILE, CONFIG_FILE, PARITY_FILE, TRAINING_FILE, WEIGHTS_FILE

ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, TRAINING_FILE, PARITY_FILE, CARD_FILE)
_MAX_MEMBERS = 1_000
_BLOCK_BYTES = 1 << 20


def pack(directory: Path, target: Path) -> Path:
    """Write the adapter files of `directory` to the tar.gz `target`, ready for upload."""
    if not directory.is_dir():
        raise ArchiveError(f"{directory} is not a directory; give the folder that holds {CONFIG_FILE}.")
    found = [directory / name for name in ADAPTER_FILES if (directory / name).is_file()]
    if not found:
        raise ArchiveError(f"{directory} holds neither {CONFIG_FILE} nor {WEIGHTS_FILE}; give an adapter's folder.")
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        for path in found:
            archive.add(path, arcname=path.name, recursive=False)
    return target


def unpack(archive: Path, directory: Path, *, max_bytes: int) -> None:
    """Unpack the adapter files of a tar.gz into `directory`; raises `ArchiveError` and writes no refused member.

    `max_bytes` bounds the whole unpacked stream, skipped members and headers too, so a small archive can fill neither
    disk nor memory.
    """
    try:
        with _BoundedGzip(archive, max_bytes) as stream:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK_BYTES) as tar:
                _extract(tar, directory)
            while stream.read(_BLOCK_BYTES):  # the checksum of everything stands at the very end
                pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ArchiveError(
            f"The upload is not a complete tar.gz ({error}); pack the adapter's folder again."
        ) from error


class _BoundedGzip(gzip.GzipFile):
    """The unzipped stream, which raises `ArchiveError` once it has given more than `max_bytes`."""

    def __init__(self, archive: Path, max_bytes: int) -> None:
        super().__init__(archive)
        self._max_bytes = self._room = max_bytes

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._room -= len(data)
        if self._room < 0:
            raise ArchiveError(f"The archive unpacks to more than {self._max_bytes} bytes; raise max_upload_bytes.")
        return data


def _extract(tar: tarfile.TarFile, directory: Path) -> None:
    seen = set[str]()
    for member in _safe_members(tar):
        name = PurePosixPath(member.name).name
        if name in seen:
            raise ArchiveError(f"The archive holds {name} twice; pack one adapter per archive.")
        seen.add(name)
        source = tar.extractfile(member)
        assert source is not None, "regular files have content"
        with source, (directory / name).open("xb") as out:
            shutil.copyfileobj(source, out, _BLOCK_BYTES)


def _safe_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar):
        if count >= _MAX_MEMBERS:
            raise ArchiveError(f"The archive holds over {_MAX_MEMBERS} members; pack only the adapter's own files.")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise ArchiveError(f"The archive member '{member.name}' leaves the archive; pack with relative paths.")
        if member.isdir():
            continue
        if not member.isreg():
            raise ArchiveError(f"The archive member '{member.name}' is a link or device; pack regular files only.")
        if path.name in ADAPTER_FILES and len(path.parts) <= 2:
            yield member
