"""Several gateways on one database: each sees what the others did, and none overtakes another."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from adapters import AdapterRef, Registry, StaleLiveError, State
from tests.adapters.versions import NAME, add_ready, manifest


@pytest.fixture
def other(registry: Registry, database: Engine) -> Registry:
    """The registry of a second gateway on the same database."""
    return Registry(database)


def test_a_refresh_brings_in_what_another_gateway_did(registry: Registry, other: Registry) -> None:
    assert not other.refresh()
    add_ready(registry, 1)
    registry.promote(NAME, 1, actor="ops")
    registry.set_pinned(NAME, True, actor="ops")
    add_ready(registry, 2, "another")
    with pytest.raises(KeyError):
        _ = other.snapshot.policies[NAME]
    assert other.refresh()
    assert other.snapshot == registry.snapshot
    assert list(other.snapshot.versions) == ["another", NAME]
    assert not other.refresh()


def test_a_gateways_own_changes_need_no_refresh(registry: Registry) -> None:
    add_ready(registry, 1)
    assert not registry.refresh()


def test_a_change_sees_what_another_gateway_did_without_a_refresh(registry: Registry, other: Registry) -> None:
    add_ready(registry, 1)
    assert add_ready(other, 2).version == 2
    other.promote(NAME, 1, actor="ops")
    with pytest.raises(StaleLiveError):
        registry.promote(NAME, 2, actor="ops", expect_live=2)
    assert registry.promote(NAME, 2, actor="ops", expect_live=1).version == 2
    assert registry.snapshot.policies[NAME].previous == 1
    registry.refresh()
    other.refresh()
    assert registry.snapshot == other.snapshot == Registry(registry._database).snapshot


def test_a_change_that_was_refused_still_shows_what_another_gateway_did(registry: Registry, other: Registry) -> None:
    add_ready(registry, 1)
    registry.promote(NAME, 1, actor="ops")
    with pytest.raises(StaleLiveError):
        other.promote(NAME, 1, actor="ops", expect_live=7)
    assert other.refresh()
    assert other.snapshot == registry.snapshot


ADDS = """
import sys
from adapters import Registry
from gateway.database import open_database
from tests.adapters.versions import add_ready

database = open_database(sys.argv[1])
registry = Registry(database)
print("ready", flush=True)
sys.stdin.readline()
print(*[add_ready(registry, content).version for content in range(100, 115)])
database.dispose()
"""


def test_processes_that_add_to_one_name_at_once_number_without_gaps(registry: Registry, database_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ADDS, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        ours = [add_ready(registry, content).version for content in range(15)]
        theirs = [int(number) for number in process.stdout.readline().split()]
    assert sorted(ours + theirs) == list(range(1, 31))
    registry.refresh()
    assert [version.state for version in registry.snapshot.versions[NAME]] == [State.READY] * 30


def test_equal_content_added_by_two_gateways_at_once_is_one_version(database: Engine) -> None:
    registries = [Registry(database) for _ in range(4)]
    together = threading.Barrier(4)

    def add(registry: Registry) -> int:
        together.wait()
        return registry.add(NAME, manifest(1), actor="ops").version

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(add, registries)) == [1, 1, 1, 1]
    (version,) = Registry(database).snapshot.versions[NAME]
    assert version.version == 1


def test_readers_see_whole_changes_while_another_gateway_writes(registry: Registry, other: Registry) -> None:
    for content in (1, 2):
        add_ready(registry, content)
    registry.promote(NAME, 1, actor="ops")
    other.refresh()
    done = threading.Event()

    def swap() -> None:
        for _ in range(40):
            registry.promote(NAME, 2, actor="ops")
            registry.rollback(NAME, actor="ops")
        done.set()

    writer = threading.Thread(target=swap)
    writer.start()
    seen = set()
    while not done.is_set():
        other.refresh()
        policy = other.snapshot.policies[NAME]
        seen.add((policy.live, policy.previous))
        assert other.snapshot.resolve(AdapterRef(NAME)).version == policy.live == other.snapshot.live[NAME]
    writer.join()
    assert seen <= {(1, None), (2, 1)}


def test_a_thousand_names_are_not_read_again_for_one_change(registry: Registry, other: Registry) -> None:
    for content in range(20):
        add_ready(registry, content, f"adapter-{content}")
    other.refresh()
    before = dict(other.snapshot.versions)
    registry.promote("adapter-7", 1, actor="ops")
    other.refresh()
    assert all(other.snapshot.versions[name] is before[name] for name in before if name != "adapter-7")
    assert other.snapshot.versions["adapter-7"][0] is before["adapter-7"][0]


KILLED = """
import sys
from sqlalchemy import event
from adapters import Registry
from gateway.database import open_database

def stand_still(*_):
    print("standing still", flush=True)
    sys.stdin.read()

database = open_database(sys.argv[1])
registry = Registry(database)
event.listen(database, "commit", stand_still)
registry.promote("support-triage", 2, actor="ops")
"""


def test_a_kill_in_the_middle_of_a_change_leaves_the_registry_as_it_was(registry: Registry, database_url: str) -> None:
    for content in (1, 2):
        add_ready(registry, content)
    registry.promote(NAME, 1, actor="ops")
    before = registry.audit()
    command = [sys.executable, "-c", KILLED, database_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "standing still\n"
        process.kill()
    registry.refresh()
    assert (registry.snapshot.live, registry.audit()) == ({NAME: 1}, before)
    assert registry.promote(NAME, 2, actor="ops", expect_live=1).version == 2
