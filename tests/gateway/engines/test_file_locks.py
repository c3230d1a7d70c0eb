"""Leases: files stay while any engine of any gateway may read them, and no longer."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters import Manifest, State, StoreError, Version
from gateway.engines.file_locks import AdapterFileLocks

DIGEST = "3f" * 32


def version(name: str = "a", digest: str = DIGEST) -> Version:
    manifest = Manifest(
        digest=digest,
        r=8,
        lora_alpha=16,
        target_modules=("q_proj",),
        weights_bytes=1,
        files={},
        training={},
        created_at=datetime.now(UTC),
    )
    return Version(name, 1, digest, State.READY, "", manifest)


def test_files_that_an_engine_holds_are_not_deleted(tmp_path: Path) -> None:
    locks = AdapterFileLocks(tmp_path)
    locks.acquire("engine-0", version())
    with pytest.raises(StoreError, match="engine-0"), locks.deleting(DIGEST):
        pass
    locks.release("engine-0", version())
    with locks.deleting(DIGEST):
        pass


def test_equal_content_under_two_names_is_held_until_both_are_gone(tmp_path: Path) -> None:
    locks = AdapterFileLocks(tmp_path)
    locks.acquire("engine-0", version("one"))
    locks.acquire("engine-0", version("two"))
    locks.release("engine-0", version("one"))
    assert locks.holders(DIGEST) == ["engine-0"]
    locks.release("engine-0", version("two"))
    assert locks.holders(DIGEST) == []


def test_an_engine_that_ended_holds_nothing_and_others_keep_theirs(tmp_path: Path) -> None:
    locks = AdapterFileLocks(tmp_path)
    locks.acquire("engine-0", version())
    locks.acquire("engine-1", version())
    locks.release_all("engine-0")
    assert locks.holders(DIGEST) == ["engine-1"]


def test_nothing_is_loaded_whose_files_are_going(tmp_path: Path) -> None:
    locks = AdapterFileLocks(tmp_path)
    with locks.deleting(DIGEST):
        with pytest.raises(StoreError, match="being deleted"):
            locks.acquire("engine-0", version())
        locks.acquire("engine-0", version(digest="4e" * 32))
    locks.acquire("engine-0", version())


ANOTHER_GATEWAY = """
import sys
from pathlib import Path
from gateway.engines.file_locks import AdapterFileLocks
try:
    with AdapterFileLocks(Path(sys.argv[1])).deleting(sys.argv[2]):
        print("deleted")
except Exception as error:
    print(error)
"""


def delete_elsewhere(root: Path) -> str:
    command = [sys.executable, "-c", ANOTHER_GATEWAY, str(root), DIGEST]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_another_gateway_on_the_same_store_sees_the_lease_and_its_end(tmp_path: Path) -> None:
    locks = AdapterFileLocks(tmp_path)
    locks.acquire("engine-0", version())
    assert "another gateway" in delete_elsewhere(tmp_path)
    locks.release("engine-0", version())
    assert delete_elsewhere(tmp_path) == "deleted\n"
