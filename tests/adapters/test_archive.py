"""Archives are not trusted: nothing leaves the directory, fills the disk, or arrives damaged."""

import base64
import gzip
import io
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from adapters import ArchiveError, PreflightError
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


@pytest.mark.parametrize("folder", ["", "./", "mine/", "run/checkpoint-10/"])
def test_the_adapter_may_lie_at_the_top_or_two_folders_down(tmp_path: Path, target: Path, folder: str) -> None:
    files = [member(f"{folder}{name}") for name in ("adapter_config.json", "adapter_model.safetensors")]
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


def test_of_several_adapters_none_is_taken(tmp_path: Path, target: Path) -> None:
    members = [member(f"run/checkpoint-{step}0/adapter_config.json") for step in range(1, 31)]
    with pytest.raises(PreflightError, match=r"is there 30 times \(run/checkpoint-10/, .*, …\); give one of these"):
        unpack(archive_of(tmp_path / "a.tar.gz", *members), target, max_bytes=MAX_BYTES)
    assert names(target) == []


def test_what_a_mac_puts_beside_the_files_is_passed_over(tmp_path: Path, target: Path) -> None:
    shadow = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
    members = [member("mine/._adapter_config.json", shadow), member("mine/adapter_config.json", b"{}")]
    members += [member("._mine", shadow), member("mine/.DS_Store"), member("__MACOSX/mine/adapter_config.json", shadow)]
    unpack(archive_of(tmp_path / "a.tar.gz", *members), target, max_bytes=MAX_BYTES)
    assert [(path.name, path.read_bytes()) for path in target.iterdir()] == [("adapter_config.json", b"{}")]


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
    archive = archive_of(tmp_path / "a.tar.gz", member("run/README.md", b"first"), member("run/README.md", b"second"))
    with pytest.raises(ArchiveError, match=r"holds run/README\.md twice"):
        unpack(archive, target, max_bytes=MAX_BYTES)
    assert names(target) == []


# What GNU tar 1.34 writes of a file of 3 GiB that is one hole: `truncate -s 3G f; tar -S -czf x.tgz f`.
SPARSE = {
    "gnu": (
        "H4sIAAAAAAACA+3QwQkCMRAF0JSyFYiri1uIBUjAeFIjSezfxaOigqgHee/yB/7AwMRtPLVUNoe8TftZjbvU0rHmUsPnzCer"
        "Ybjm5Dbv534c+0Xo1uEHzrXF0nWh5Nye7b3q37Z88IWvHAAAAAAAAAAAAOBPXADZ7585ACgAAA=="
    ),
    "pax00": (
        "H4sIAAAAAAACA+3UwYrCMBCA4Zz7FH2CkqRtPPXszduel6gpLKtGMhHUp7coiFbYPW1Z8P8uM2QyJDlMjurv6YFrmmscjKM2"
        "ztzz27qzTavK4wR3UwfJPg1HqvdU63K++Khk75OESr7OoautNda2zcwW1j1Wd4ftchNX39KZoraPldj3EvJTZzvuPOUgnS4U"
        "/hO/9vsc0uc2rsOmEt+HHHYSk0w4/y+5cXr4Eko95fynGPNP+36rjx8HAAAAAAAAAAAAAAAATOACQuIIZQAoAAA="
    ),
    "pax01": (
        "H4sIAAAAAAACA+3TsU7DMBCAYc95ijwAcp2zE6asZWNBzMhQI1UkdWSnUsXTE1UIhSLo1HTg/5azfCedrdMd1OWZSePcMU5O"
        "oxHzlfu8b8RZVR4WeJva59GnqaX6n6wp7+4fdR58ykHn7XtorUglUrtbKaSZZ3f7/rmLL2+5rQpXf8v4PrR+44cxpKc+bkKn"
        "s38NY9jlmHJhq3lx74dZjxtTKFyNXk2TeTgOZr3tgpa6qmX16ygvsv8/zlJZI6o0S+5/inH8q+5c/vRzAAAAAAAAAAAAAAAA"
        "wAI+AN/uGX0AKAAA"
    ),
    "pax10": (
        "H4sIAAAAAAACA+3UwYrDIBAGYM8+RZ7A6kSTU667t72UPRehU8iSxKJZCPv0lSyUEGh7akvp/11GxgGVYZzE/emssnaO2Tpq"
        "U5fn9X++IqdFMT3gbuI3jT7mI8V7Iio+v75VOvqYWPX+J8TGyFW2HXJWS+uW2cH33Pi9P44cd33Yc6eSP/DIQwoxydIuiyP7"
        "LrV/3JREhsjZmqSA51Ob3KXt3KSPtmNFzrhqc7Gt95h/s/wL5jWZUtei0I+c/xjCeK3u1v76cS/CyMVEaswkAAAAAAAAAAAA"
        "AAAAAAAAwKs5AZZe8hEAKAAA"
    ),
}


@pytest.mark.parametrize("packed", SPARSE.values(), ids=SPARSE.keys())
def test_holes_are_refused_before_a_byte_of_them_is_written(tmp_path: Path, target: Path, packed: str) -> None:
    (tmp_path / "a.tar.gz").write_bytes(base64.b64decode(packed))
    assert (tmp_path / "a.tar.gz").stat().st_size < 250
    with pytest.raises(ArchiveError, match=r"safetensors' is sparse; pack it again without tar's --sparse"):
        unpack(tmp_path / "a.tar.gz", target, max_bytes=MAX_BYTES)
    assert names(target) == []


def held_in_memory(archive: Path, target: Path) -> int:
    """The most memory that a refusal took."""
    tracemalloc.start()
    with pytest.raises(ArchiveError):
        unpack(archive, target, max_bytes=64 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_a_map_of_holes_is_not_read_into_memory(tmp_path: Path, target: Path) -> None:
    fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    holes = b"8000000\n" + b"0\n" * 16_000_000
    archive = archive_of(tmp_path / "a.tar.gz", member("adapter_model.safetensors", holes, pax_headers=fields))
    assert archive.stat().st_size < 100_000
    assert held_in_memory(archive, target) < 16 << 20


def test_a_header_is_not_read_into_memory_whatever_it_claims(tmp_path: Path, target: Path) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", member("README.md", pax_headers={"comment": "x" * (60 << 20)}))
    assert held_in_memory(archive, target) < 16 << 20


@pytest.mark.parametrize("name", ["README.md", "left_out.bin"])
def test_a_size_that_no_archive_has_is_refused_before_it_is_passed_over(
    tmp_path: Path, target: Path, name: str
) -> None:
    """Passing over 2**62 bytes that are not there took a core for ever."""
    archive = archive_of(tmp_path / "a.tar.gz", member(name, b"x" * 1000, pax_headers={"size": str(1 << 62)}))
    with pytest.raises(ArchiveError, match=f"unpacks to more than {MAX_BYTES} bytes"):
        unpack(archive, target, max_bytes=MAX_BYTES)
    assert names(target) == []


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "left_out.bin"])
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
        with pytest.raises(ArchiveError, match=r"is not a complete tar\.gz or zip"):
            unpack(path, directory, max_bytes=MAX_BYTES)


def test_one_wrong_byte_fails_the_checksum(tmp_path: Path, target: Path) -> None:
    path = archive_of(tmp_path / "a.tar.gz", member("adapter_model.safetensors", os.urandom(50_000)))
    damaged = bytearray(path.read_bytes())
    damaged[25_000] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ArchiveError, match=r"is not a complete tar\.gz or zip"):
        unpack(path, target, max_bytes=MAX_BYTES)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"{}", gzip.compress(b"not a tar" * 100), gzip.compress(b"")[:-1]],
    ids=["empty", "zip", "json", "gzip of something else", "cut gzip of nothing"],
)
def test_what_is_no_tar_gz_is_refused(tmp_path: Path, target: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"is not a complete tar\.gz or zip .*; pack the adapter's folder again\.$"):
        unpack(tmp_path / "a.tar.gz", target, max_bytes=MAX_BYTES)


def test_the_archives_file_modes_are_not_taken_over(tmp_path: Path, target: Path) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", member("README.md", mode=0o6777))
    unpack(archive, target, max_bytes=MAX_BYTES)
    assert not (target / "README.md").stat().st_mode & 0o7111


def zip_of(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip_is_read_too(adapter_dir: Path, tmp_path: Path, target: Path) -> None:
    files = {f"mine/{path.name}": path.read_bytes() for path in adapter_dir.iterdir()}
    shadows = {"__MACOSX/mine/._adapter_config.json": b"shadow", "mine/.DS_Store": b"x", "mine/optimizer.pt": b"x"}
    unpack(zip_of(tmp_path / "a.zip", **files, **shadows), target, max_bytes=MAX_BYTES)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in adapter_dir.iterdir()
    }


@pytest.mark.parametrize("name", ["../adapter_config.json", "/adapter_config.json", "a/../../adapter_config.json"])
def test_an_unsafe_path_refuses_a_zip(tmp_path: Path, target: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="leaves the archive"):
        unpack(zip_of(tmp_path / "a.zip", **{name: b"x"}), target, max_bytes=MAX_BYTES)
    assert (names(target), names(target.parent)) == ([], ["target"])


def test_a_link_refuses_a_zip(tmp_path: Path, target: Path) -> None:
    link = zipfile.ZipInfo("adapter_config.json")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match="is a link or device"):
        unpack(tmp_path / "a.zip", target, max_bytes=MAX_BYTES)


def test_a_zip_bomb_stops_at_the_limit(tmp_path: Path, target: Path) -> None:
    bomb = zip_of(tmp_path / "a.zip", **{"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(64 << 20)})
    assert bomb.stat().st_size < MAX_BYTES / 10
    with pytest.raises(ArchiveError, match=f"unpacks to more than {MAX_BYTES} bytes; raise max_upload_bytes"):
        unpack(bomb, target, max_bytes=MAX_BYTES)
    assert sum(path.stat().st_size for path in target.iterdir()) <= MAX_BYTES


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_packed_with_deflate_or_not_at_all(tmp_path: Path, target: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("adapter_config.json", bytes(1 << 20))
    with pytest.raises(ArchiveError, match="is encrypted or not packed with deflate"):
        unpack(tmp_path / "a.zip", target, max_bytes=MAX_BYTES)


def test_a_zips_directory_is_bounded_before_it_is_read(tmp_path: Path, target: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(30_000):
            archive.writestr(f"{number:040}", b"")
    with pytest.raises(ArchiveError, match="is larger than zips of adapters are"):
        unpack(tmp_path / "a.zip", target, max_bytes=MAX_BYTES)


@pytest.mark.parametrize("kept", [5, 200, -30, -1])
def test_a_zip_cut_anywhere_is_not_complete(tmp_path: Path, target: Path, kept: int) -> None:
    whole = zip_of(tmp_path / "a.zip", **{"adapter_config.json": os.urandom(5_000)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:kept])
    with pytest.raises(ArchiveError, match="is not a complete"):
        unpack(tmp_path / "a.zip", target, max_bytes=MAX_BYTES)


def test_a_damaged_archive_is_refused_however_it_is_damaged(tmp_path: Path, target: Path) -> None:
    """None of these is the gateway's own failure, and all can be told."""
    zipped = zip_of(tmp_path / "a.zip", **{"adapter_config.json": b"{}", "\u00ffb": b""}).read_bytes()
    in_pax = member("adapter_model.safetensors", pax_headers={"GNU.sparse.map": "a,b", "GNU.sparse.size": "5"})
    no_text = member("/\udcff\udcfe")
    packed = {
        "a name that is no text": zipped.replace("\u00ff".encode(), b"\xff\xff"),
        "a directory before the beginning": zipped[:-6] + b"\xff\xff\xff\x7f" + zipped[-2:],
        "a map of holes that is no map": archive_of(tmp_path / "map.tar.gz", in_pax).read_bytes(),
        "a path that is no text": archive_of(tmp_path / "path.tar.gz", no_text).read_bytes(),
    }
    for content in packed.values():
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ArchiveError) as refused:
            unpack(tmp_path / "a", target, max_bytes=MAX_BYTES)
        assert str(refused.value).encode()
        assert names(target) == []


def snapshot_of(adapter: Path, cache: Path) -> Path:
    """The adapter as a hub's cache keeps it: a folder of links to files that are named by their hashes."""
    repository = cache / "models--acme--tone"
    snapshot = repository / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(adapter.iterdir())):
        blob = repository / "blobs" / f"{number:064x}"
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_a_snapshot_of_a_hubs_cache_is_packed_by_what_its_links_lead_to(
    adapter_dir: Path, tmp_path: Path, target: Path
) -> None:
    snapshot = snapshot_of(adapter_dir, tmp_path / "hub")
    (tmp_path / "latest").symlink_to(snapshot)
    unpack(pack(tmp_path / "latest", tmp_path / "a.tar.gz"), target, max_bytes=MAX_BYTES)
    for path in adapter_dir.iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()


def test_a_link_out_of_the_folder_is_not_packed(adapter_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (adapter_dir / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(
        ArchiveError, match=r"README\.md is a link to .*/secret, outside the folder; copy the file there"
    ):
        pack(adapter_dir, tmp_path / "a.tar.gz")
