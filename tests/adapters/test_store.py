"""The store: one directory per content, complete or absent, whatever happens to the process and the disk."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters import Manifest, Store, StoreError
from adapters.peft_config import read_peft_config
from tests.adapters.conftest import ATTENTION, Adapter, in_layers, lora


def put(store: Store, directory: Path) -> Manifest:
    return store.put(directory, read_peft_config(directory))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def entries(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.iterdir())


def test_a_version_lies_under_its_digest_with_its_manifest(store: Store, tmp_path: Path) -> None:
    directory = Adapter(training={"loss": 0.5}).write(tmp_path / "adapter")
    (directory / "README.md").write_text("# card")
    (directory / "optimizer.pt").write_text("no adapter file")
    manifest = put(store, directory)
    assert entries(store) == [manifest.digest]
    assert store.path(manifest.digest) == store.root / manifest.digest
    assert {path.name for path in store.path(manifest.digest).iterdir()} == {*manifest.files, "manifest.json"}
    assert set(manifest.files) == {"adapter_config.json", "adapter_model.safetensors", "training.json", "README.md"}
    for name in manifest.files:
        assert (store.path(manifest.digest) / name).read_bytes() == (directory / name).read_bytes()


def test_the_manifest_states_what_the_version_is(store: Store, tmp_path: Path) -> None:
    directory = Adapter(training={"loss": 0.5}).write(tmp_path / "adapter")
    manifest = put(store, directory)
    assert store.read(manifest.digest) == manifest
    assert (manifest.r, manifest.lora_alpha, manifest.training) == (8, 16.0, {"loss": 0.5})
    assert manifest.target_modules == tuple(sorted(Adapter().config["target_modules"]))
    assert manifest.weights_bytes == (directory / "adapter_model.safetensors").stat().st_size
    assert manifest.digest12 == manifest.digest[:12]


def test_equal_content_is_one_version(store: Store, tmp_path: Path) -> None:
    first = put(store, Adapter().write(tmp_path / "a"))
    assert put(store, Adapter().write(tmp_path / "b")) == first
    assert entries(store) == [first.digest]


def test_the_spelling_of_the_json_does_not_matter(store: Store, tmp_path: Path) -> None:
    first = put(store, Adapter().write(tmp_path / "a"))
    directory = Adapter().write(tmp_path / "b")
    shuffled = dict(reversed(Adapter().config.items()))
    shuffled["target_modules"] = list(reversed(shuffled["target_modules"]))
    (directory / "adapter_config.json").write_text(json.dumps(shuffled, indent=8))
    assert put(store, directory).digest == first.digest


def test_another_config_is_another_version(store: Store, tmp_path: Path) -> None:
    first = put(store, Adapter().write(tmp_path / "a"))
    other = Adapter()
    other.config["lora_alpha"] = 17
    assert put(store, other.write(tmp_path / "b")).digest != first.digest


def test_other_weights_are_another_version(store: Store, tmp_path: Path) -> None:
    first = put(store, Adapter().write(tmp_path / "a"))
    other = Adapter(tensors=lora(in_layers(ATTENTION), seed=1))
    assert put(store, other.write(tmp_path / "b")).digest != first.digest
    assert len(entries(store)) == 2


def test_equal_content_stored_at_the_same_time_is_one_version(store: Store, adapter_dir: Path) -> None:
    workers = 8
    together = threading.Barrier(workers)

    def work(_: int) -> Manifest:
        together.wait()
        return put(store, adapter_dir)

    with ThreadPoolExecutor(workers) as pool:
        digests = {manifest.digest for manifest in pool.map(work, range(workers))}
    assert entries(store) == sorted(digests)
    assert len(digests) == 1


def test_a_whole_version_verifies(store: Store, adapter_dir: Path) -> None:
    digest = put(store, adapter_dir).digest
    assert store.verify(digest) == store.path(digest)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_one_flipped_bit_is_found_and_publishing_again_mends_it(store: Store, adapter_dir: Path, name: str) -> None:
    digest = put(store, adapter_dir).digest
    path = store.path(digest) / name
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=f"{name} of version {digest[:12]} has changed on disk; publish"):
        store.verify(digest)
    assert put(store, adapter_dir).digest == digest
    store.verify(digest)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "manifest.json"])
def test_a_missing_file_is_found_and_publishing_again_mends_it(store: Store, adapter_dir: Path, name: str) -> None:
    digest = put(store, adapter_dir).digest
    (store.path(digest) / name).unlink()
    with pytest.raises(StoreError, match="publish"):
        store.verify(digest)
    assert put(store, adapter_dir).digest == digest
    store.verify(digest)


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json"])
def test_a_damaged_manifest_is_no_version(store: Store, adapter_dir: Path, content: str) -> None:
    digest = put(store, adapter_dir).digest
    (store.path(digest) / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=f"Version {digest[:12]} is not in the store or is damaged; publish it again"):
        store.read(digest)


def test_a_version_that_was_never_stored_is_not_there(store: Store) -> None:
    with pytest.raises(StoreError, match="Version 000000000000 is not in the store"):
        store.read("0" * 64)


def test_a_failure_while_uploading_leaves_nothing(store: Store) -> None:
    def upload() -> None:
        with store.incoming() as scratch:
            (scratch / "half").write_text("a file")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        upload()
    assert entries(store) == []


KILLED = """
import os, shutil, sys
from pathlib import Path
from adapters import Store
from adapters.peft_config import read_peft_config

def stand_still(*_, **__):
    print("standing still", flush=True)
    sys.stdin.read()

module, name = sys.argv[3].split(".")
setattr({"os": os, "shutil": shutil}[module], name, stand_still)
directory = Path(sys.argv[2])
Store(Path(sys.argv[1])).put(directory, read_peft_config(directory))
"""


@pytest.mark.parametrize("moment", ["shutil.copyfile", "os.fsync", "os.rename"])
def test_a_kill_in_the_middle_of_put_leaves_a_usable_store(tmp_path: Path, adapter_dir: Path, moment: str) -> None:
    root = tmp_path / "store"
    command = [sys.executable, "-c", KILLED, str(root), str(adapter_dir), moment]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "standing still\n"
        process.kill()
    assert [path.name.startswith(".incoming-") for path in root.iterdir()] == [True]
    store = Store(root)
    assert entries(store) == []
    digest = put(store, adapter_dir).digest
    assert entries(store) == [digest]
    store.verify(digest)


FULL = """
import resource, sys
from pathlib import Path
from adapters import AllowedSources, Store, StoreError, fetch
from adapters.archive import pack, unpack
from adapters.peft_config import read_peft_config

def put(store, directory):
    store.put(directory, read_peft_config(directory))

def upload(store, directory):
    with store.incoming() as scratch:
        unpack(directory.parent / "adapter.tar.gz", scratch, max_bytes=1 << 20)

def fetched(store, directory):
    with store.incoming() as scratch:
        fetch(str(directory), scratch, max_bytes=1 << 20, allowed=AllowedSources(("/",)))

directory = Path(sys.argv[2])
store = Store(Path(sys.argv[1]))
pack(directory, directory.parent / "adapter.tar.gz")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
for action in (put, upload, fetched):
    try:
        action(store, directory)
    except StoreError as error:
        print(error)
"""


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_made(tmp_path: Path, adapter_dir: Path) -> None:
    root = tmp_path / "store"
    weights_bytes = (adapter_dir / "adapter_model.safetensors").stat().st_size
    command = [sys.executable, "-c", FULL, str(root), str(adapter_dir), str(weights_bytes - 1)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == [f"The adapter store {root} cannot be written (File too large); free or fix that disk."] * 3
    assert list(root.iterdir()) == []
    assert put(Store(root), adapter_dir).weights_bytes == weights_bytes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where this machine lets tests mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_keeps_the_versions_it_has(small_disk: Path, tmp_path: Path) -> None:
    store = Store(small_disk / "store")
    kept = put(store, Adapter(tensors=lora(in_layers(ATTENTION), r=2)).write(tmp_path / "small"))
    large = Adapter(tensors=lora(in_layers(ATTENTION), r=512)).write(tmp_path / "large")
    with pytest.raises(StoreError, match=r"cannot be written .No space left on device.; free or fix that disk"):
        put(store, large)
    assert entries(store) == [kept.digest]
    store.verify(kept.digest)


def test_another_gateway_that_starts_leaves_uploads_alone(store: Store, adapter_dir: Path) -> None:
    with store.incoming() as scratch:
        shutil.copyfile(adapter_dir / "adapter_config.json", scratch / "adapter_config.json")
        Store(store.root)
        assert (scratch / "adapter_config.json").is_file()
    assert entries(store) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_two_gateways_that_put_the_same_content_keep_one_whole_version(
    store: Store, adapter_dir: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    other = Store(store.root)
    rename = Path.rename

    def overtaken(source: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        digest = put(other, adapter_dir).digest
        if damaged:
            (other.path(digest) / "manifest.json").unlink()
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    digest = put(store, adapter_dir).digest
    assert entries(store) == [digest]
    store.verify(digest)


def test_leftovers_are_swept_and_versions_kept_at_the_next_start(store: Store, adapter_dir: Path) -> None:
    digest = put(store, adapter_dir).digest
    leftover = store.root / ".incoming-dead"
    shutil.copytree(adapter_dir, leftover)
    assert entries(Store(store.root)) == [digest]


def test_a_store_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(StoreError, match=r"The adapter store .*/store cannot be written \(File exists\)"):
        Store(tmp_path / "store")
