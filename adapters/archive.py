"""Pack adapter directories into archives, and unpack untrusted tar.gz and zip archives safely.

An archive is read twice: first whole, to refuse members that would be written elsewhere (absolute paths, `..`, links,
devices) and to find the adapter; then only the adapter's files are written, each byte counted.
"""

import errno
import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn, Protocol

from adapters.errors import ArchiveError
from adapters.layout import find_adapter, list_files
from adapters.manifest import CONFIG_FILE, WEIGHTS_FILE

_MAX_MEMBERS = 1_000
_MAX_HEADER_BYTES = 64 << 10
_MAX_DIRECTORY_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20
_ZIP, _END, _LOCATOR_64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07"
_END_BYTES, _LONGEST_COMMENT = 22, 65_535
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class Readable(Protocol):
    """A binary stream that is read piece by piece."""

    def read(self, size: int, /) -> bytes: ...


def pack(directory: Path, target: Path, *, convert: bool = False) -> Path:
    """Write the adapter files of `directory` to the tar.gz `target`, ready for upload.

    Links are followed where a hub's cache makes them, or inside the folder; one that leads elsewhere is refused, so
    that no folder from a stranger sends off a file of this machine. Raises `PreflightError` for another tool's adapter.
    """
    if not directory.is_dir():
        raise ArchiveError(f"{directory} is not a directory; give the folder that holds {CONFIG_FILE}.")
    folder = directory.resolve()
    found = find_adapter(list_files(folder), convert=convert)
    if found is None:
        raise ArchiveError(f"{directory} holds neither {CONFIG_FILE} nor {WEIGHTS_FILE}; give an adapter's folder.")
    files = [_followed(folder / found.folder / name, folder) for name in found.names]
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        for name, path in zip(found.names, files, strict=True):
            archive.add(path, arcname=name, recursive=False)
    return target


def _followed(path: Path, folder: Path) -> Path:
    """Return the regular file behind a path of the folder."""
    leads_to = path.resolve()
    caches = (parent.parent / "blobs" for parent in (folder, *folder.parents) if parent.name == "snapshots")
    if not any(leads_to.is_relative_to(root) for root in (folder, *caches)):
        raise ArchiveError(f"{path.name} is a link to {leads_to}, outside the folder; copy the file there.")
    return leads_to


def unpack(archive: Path, directory: Path, *, max_bytes: int, convert: bool = False) -> None:
    """Unpack the adapter files of an archive into `directory`, with `convert` those of other tools too.

    Raises `ArchiveError` for an unsafe or damaged archive, `PreflightError` for another tool's adapter; a refused one
    leaves nothing behind but, at the most, `max_bytes`. That bounds what is read of the unpacked stream, skipped
    members and headers too, and what is written: a small archive can fill neither disk nor memory.
    """
    try:
        with archive.open("rb") as file:
            is_zip = file.read(len(_ZIP)) == _ZIP
        (_unpack_zip if is_zip else _unpack_tar)(archive, directory, max_bytes, convert)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        ValueError,
    ) as error:
        # A place that a damaged archive names may be none at all; other numbers are the disk's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ArchiveError(
            f"The upload is not a complete tar.gz or zip ({error}); pack the adapter's folder again."
        ) from error


def copy_bounded(stream: Readable, target: Path, room: int, too_large: Callable[[], NoReturn]) -> int:
    """Copy a stream to a new file and return its length; calls `too_large` before it writes more than `room` bytes."""
    copied = 0
    with target.open("xb") as out:
        while block := stream.read(min(_BLOCK_BYTES, room - copied + 1)):
            copied += len(block)
            if copied > room:
                too_large()
            out.write(block)
    return copied


def _unpack_tar(archive: Path, directory: Path, max_bytes: int, convert: bool) -> None:
    with _opened_tar(archive, max_bytes) as tar:
        paths = [str(PurePosixPath(member.name)) if member.isreg() else "" for member in _safe_members(tar, max_bytes)]
    wanted = _wanted(paths, convert=convert)
    room = max_bytes
    with _opened_tar(archive, max_bytes) as tar:
        for path, member in zip(paths, tar, strict=True):
            if path in wanted:
                source = tar.extractfile(member)
                assert source is not None, "regular files have content"
                with source:
                    room -= _write(source, directory / wanted[path], room, max_bytes)


@contextmanager
def _opened_tar(archive: Path, max_bytes: int) -> Iterator[tarfile.TarFile]:
    with _BoundedGzip(archive, max_bytes) as stream:
        with tarfile.open(
            fileobj=stream, mode="r|", bufsize=_BLOCK_BYTES, tarinfo=_BoundedHeader, errors="replace"
        ) as tar:  # names that are no text could not be told in an error
            yield tar
        while stream.read(_BLOCK_BYTES):  # the checksum of everything stands at the very end
            pass


class _BoundedGzip(gzip.GzipFile):
    """Decompressed stream; raises `ArchiveError` beyond `max_bytes`."""

    def __init__(self, archive: Path, max_bytes: int) -> None:
        super().__init__(archive)
        self._max_bytes = self._room = max_bytes

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._room -= len(data)
        if self._room < 0:
            _refuse_large(self._max_bytes)
        return data


class _BoundedHeader(tarfile.TarInfo):
    """Header of a tar member; refuses headers of unbounded size and sparse files."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_BoundedHeader":
        header = super().frombuf(buf, encoding, errors)
        if header.type == tarfile.GNUTYPE_SPARSE:
            _refuse_sparse(header.name)
        if header.type in _EXTENDED and header.size > _MAX_HEADER_BYTES:
            raise ArchiveError("The archive's headers are larger than any file's name; pack the adapter's files alone.")
        return header

    def _proc_gnusparse_10(self, next: tarfile.TarInfo, *_: object) -> NoReturn:  # noqa: A002 - tarfile's own name
        _refuse_sparse(next.name)  # before its map, which has no bound, is read


def _safe_members(tar: tarfile.TarFile, max_bytes: int) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar):
        _check_count(count)
        _check_path(member.name)
        if member.issparse():
            _refuse_sparse(member.name)
        if member.size > max_bytes:  # now, because passing over what is not there takes for ever
            _refuse_large(max_bytes)
        if not member.isdir() and not member.isreg():
            raise ArchiveError(f"The archive member '{member.name}' is a link or device; pack regular files only.")
        yield member


def _unpack_zip(archive: Path, directory: Path, max_bytes: int, convert: bool) -> None:
    _check_directory(archive)
    with zipfile.ZipFile(archive) as opened:
        for count, member in enumerate(opened.infolist()):
            _check_count(count)
            _check_path(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(
                    f"The archive member '{member.filename}' is a link or device; pack regular files only."
                )
            # Other methods are unpacked by the block, whatever it holds, into memory.
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArchiveError(
                    f"The archive member '{member.filename}' is encrypted or not packed with deflate; pack it plainly."
                )
        members = [member for member in opened.infolist() if not member.is_dir()]
        paths = [str(PurePosixPath(member.filename)) for member in members]
        wanted = _wanted(paths, convert=convert)
        room = max_bytes
        for path, member in zip(paths, members, strict=True):
            if path in wanted:
                with opened.open(member) as source:
                    room -= _write(source, directory / wanted[path], room, max_bytes)


def _check_directory(archive: Path) -> None:
    """Refuse a zip whose central directory is larger than an adapter's can be: it is read into memory."""
    with archive.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_BYTES - _LONGEST_COMMENT - 20))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or end + _END_BYTES > len(tail):
        raise zipfile.BadZipFile("its end is missing")
    (directory_bytes,) = struct.unpack_from("<I", tail, end + 12)
    if directory_bytes > _MAX_DIRECTORY_BYTES or tail[max(0, end - 20) :].startswith(_LOCATOR_64):
        raise ArchiveError("The zip is larger than zips of adapters are; pack the adapter's files alone, as tar.gz.")


def _wanted(paths: Collection[str], *, convert: bool) -> dict[str, str]:
    """Return the paths to write and their names in the adapter's folder."""
    found = find_adapter((path for path in paths if path), convert=convert)
    if found is None:
        raise ArchiveError(f"The archive holds neither {CONFIG_FILE} nor {WEIGHTS_FILE}; pack an adapter's folder.")
    wanted = {f"{found.folder}{name}": name for name in found.names}
    for path in wanted:
        if list(paths).count(path) > 1:
            raise ArchiveError(f"The archive holds {path} twice; pack one adapter per archive.")
    return wanted


def _write(source: BinaryIO | Readable, target: Path, room: int, max_bytes: int) -> int:
    return copy_bounded(source, target, room, lambda: _refuse_large(max_bytes))


def _check_count(count: int) -> None:
    if count >= _MAX_MEMBERS:
        raise ArchiveError(f"The archive holds over {_MAX_MEMBERS} members; pack only the adapter's own files.")


def _check_path(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ArchiveError(f"The archive member '{name}' leaves the archive; pack with relative paths.")


def _refuse_large(max_bytes: int) -> NoReturn:
    raise ArchiveError(f"The archive unpacks to more than {max_bytes} bytes; raise max_upload_bytes.")


def _refuse_sparse(name: str) -> NoReturn:
    raise ArchiveError(f"The archive member '{name}' is sparse; pack it again without tar's --sparse.")
