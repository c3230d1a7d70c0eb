"""Archives are not trusted: nothing leaves the directory, fills the disk, or arrives damaged."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from adapters import ArchiveError
from adapters.archive import pack, unpack

MAX_BYTES = 1 << 20


def member(name: str, content: bytes = b"x", **header: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in header.items():
        setattr(info, attribute, value)
    return info, content


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch" / "target"
    directory.mkdir(parents=True)
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_packed_is_unpacked_byte_for_byte(adapter_dir: Path, target: Path, tmp_path: Path) -> None:
    (adapter_dir / "training.json").write_text("{}")
    (adapter_dir / "README.md").write_bytes(os.urandom(3_000_000))
    unpack(pack(adapter_dir, tmp_path / "adapter.tar.gz"), target, max_bytes=4_000_000)
    assert names(target) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "training.json"]
    for path in adapter_dir.iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()


def test_only_the_adapters_own_files_are_packed(adapter_dir: Path, target: Path, tmp_path: Path) -> None:
    (adapter_dir / "optimizer.pt").write_bytes(b"state")
    unpack(pack(adapter_dir, tmp_path / "adapter.tar.gz"), target, max_bytes=MAX_BYTES)
    assert names(target) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("made", [False, True], ids=["absent", "empty"])
def test_a_folder_without_an_adapter_is_not_packed(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "folder"
    if made:
        folder.mkdir()
    with pytest.raises(ArchiveError, match="give "):
        pack(folder, tmp_path / "adapter.tar.gz")
    assert not (tmp_path / "adapter.tar.gz").exists()


def test_the_files_may_lie_in_one_folder_or_none(tmp_path: Path, target: Path) -> None:
    files = member("./adapter_config.json"), member("mine/adapter_model.safetensors")
    unpack(
        archive_of(tmp_path / "a.tar.gz", member("mine", b"", type=tarfile.DIRTYPE), *files),
        target,
        max_bytes=MAX_BYTES,
    )
    assert names(target) == ["adapter_config.json", "adapter_model.safetensors"]


def test_files_nested_deeper_and_other_files_are_left_out(tmp_path: Path, target: Path) -> None:
    others = member("run/checkpoint-10/adapter_config.json"), member("run/optimizer.pt"), member("manifest.json")
    unpack(archive_of(tmp_path / "a.tar.gz", member("run/adapter_config.json"), *others), target, max_bytes=MAX_BYTES)
    assert names(target) == ["adapter_config.json"]


UNSAFE = {
    "traversal": member("../adapter_config.json"),
    "traversal in the middle": member("a/../../adapter_config.json"),
    "traversal in a name that is left out": member("../../other"),
    "absolute": member("/adapter_config.json"),
    "symlink": member("adapter_config.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hardlink": member("adapter_config.json", b"", type=tarfile.LNKTYPE, linkname="../secret"),
    "symlinked folder": member("mine", b"", type=tarfile.SYMTYPE, linkname="/etc"),
    "device": member("adapter_config.json", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": member("adapter_config.json", b"", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("unsafe", UNSAFE.values(), ids=UNSAFE.keys())
def test_an_unsafe_member_refuses_the_archive(
    tmp_path: Path, target: Path, unsafe: tuple[tarfile.TarInfo, bytes]
) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", unsafe, member("adapter_model.safetensors"))
    with pytest.raises(ArchiveError, match=r"leaves the archive|is a link or device") as refused:
        unpack(archive, target, max_bytes=MAX_BYTES)
    assert unsafe[0].name in str(refused.value)
    assert names(target) == []
    assert names(target.parent) == ["target"]


def test_the_same_file_twice_is_refused(tmp_path: Path, target: Path) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", member("README.md", b"first"), member("run/README.md", b"second"))
    with pytest.raises(ArchiveError, match=r"holds README\.md twice"):
        unpack(archive, target, max_bytes=MAX_BYTES)
    assert (target / "README.md").read_bytes() == b"first"


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "left_out.bin", "n" * (2 * MAX_BYTES)], ids=lambda n: n[:20]
)
def test_a_bomb_stops_at_the_limit(tmp_path: Path, target: Path, name: str) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", member(name, bytes(2 * MAX_BYTES)))
    assert archive.stat().st_size < MAX_BYTES / 50
    with pytest.raises(ArchiveError, match=f"unpacks to more than {MAX_BYTES} bytes; raise max_upload_bytes"):
        unpack(archive, target, max_bytes=MAX_BYTES)
    assert sum(path.stat().st_size for path in target.iterdir()) <= MAX_BYTES


def test_zeros_behind_the_last_member_count_too(tmp_path: Path, target: Path) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", member("README.md"))
    with archive.open("ab") as file:
        file.write(gzip.compress(bytes(2 * MAX_BYTES)))
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        unpack(archive, target, max_bytes=MAX_BYTES)


def test_too_many_members_are_refused(tmp_path: Path, target: Path) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", *(member(f"{n}.txt") for n in range(1_001)))
    with pytest.raises(ArchiveError, match="holds over 1000 members"):
        unpack(archive, target, max_bytes=10 * MAX_BYTES)


def test_an_archive_cut_anywhere_is_not_complete(tmp_path: Path, target: Path) -> None:
    path = archive_of(tmp_path / "a.tar.gz", member("adapter_model.safetensors", os.urandom(50_000)))
    whole = path.read_bytes()
    for kept in (5, 200, 10_000, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:kept])
        directory = target / str(kept)
        directory.mkdir()
        with pytest.raises(ArchiveError, match=r"is not a complete tar\.gz"):
            unpack(path, directory, max_bytes=MAX_BYTES)


def test_one_wrong_byte_fails_the_checksum(tmp_path: Path, target: Path) -> None:
    path = archive_of(tmp_path / "a.tar.gz", member("adapter_model.safetensors", os.urandom(50_000)))
    damaged = bytearray(path.read_bytes())
    damaged[25_000] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ArchiveError, match=r"is not a complete tar\.gz"):
        unpack(path, target, max_bytes=MAX_BYTES)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"{}", gzip.compress(b"not a tar" * 100), gzip.compress(b"")[:-1]],
    ids=["empty", "zip", "json", "gzip of something else", "cut gzip of nothing"],
)
def test_what_is_no_tar_gz_is_refused(tmp_path: Path, target: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"is not a complete tar\.gz .*; pack the adapter's folder again\.$"):
        unpack(tmp_path / "a.tar.gz", target, max_bytes=MAX_BYTES)


def test_the_archives_file_modes_are_not_taken_over(tmp_path: Path, target: Path) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", member("README.md", mode=0o6777))
    unpack(archive, target, max_bytes=MAX_BYTES)
    assert not (target / "README.md").stat().st_mode & 0o7111
