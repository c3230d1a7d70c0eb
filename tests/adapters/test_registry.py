"""Names, versions and the live pointer, over a real database; every test runs on each database there is."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine, event

from adapters import (
    AdapterRef,
    NotReadyError,
    Registry,
    StaleLiveError,
    State,
    UnknownAdapterError,
    Version,
)
from tests.adapters.versions import NAME, add_ready, manifest


def live(registry: Registry) -> Version:
    return registry.snapshot.resolve(AdapterRef(NAME))


def test_versions_count_up_by_name(registry: Registry) -> None:
    assert [registry.add(NAME, manifest(n), actor="ops").version for n in range(3)] == [1, 2, 3]
    assert registry.add("other", manifest(3), actor="ops").version == 1


def test_a_new_version_is_registered_and_not_live(registry: Registry) -> None:
    added = registry.add(NAME, manifest(1), actor="ops")
    assert (added.state, added.reason) == (State.REGISTERED, "")
    assert added.engine_name == f"{NAME}@{manifest(1).digest[:12]}"
    with pytest.raises(UnknownAdapterError):
        registry.snapshot.resolve(AdapterRef(NAME))


def test_equal_content_keeps_its_number_and_state(registry: Registry) -> None:
    first = add_ready(registry, 1)
    registry.add(NAME, manifest(2), actor="ops")
    before = len(registry.audit())
    assert registry.add(NAME, manifest(1), actor="ops") == first
    assert len(registry.snapshot.versions[NAME]) == 2
    assert len(registry.audit()) == before


def test_equal_content_may_have_several_names(registry: Registry) -> None:
    assert registry.add(NAME, manifest(1), actor="ops").digest == registry.add("other", manifest(1), actor="ops").digest
    assert set(registry.snapshot.versions) == {NAME, "other"}


def test_a_ref_resolves_by_version_by_digest_and_by_what_is_live(registry: Registry) -> None:
    first, second = add_ready(registry, 1), add_ready(registry, 2)
    registry.promote(NAME, 1, actor="ops")
    assert registry.snapshot.resolve(AdapterRef.parse(NAME)) == first
    assert registry.snapshot.resolve(AdapterRef.parse(f"{NAME}@v2")) == second
    assert registry.snapshot.resolve(AdapterRef.parse(second.engine_name)) == second


@pytest.mark.parametrize("ref", ["nobody", "nobody@v1", f"{NAME}@v2", f"{NAME}@ffffffffffff"])
def test_what_is_not_there_is_unknown(registry: Registry, ref: str) -> None:
    add_ready(registry, 1)
    with pytest.raises(UnknownAdapterError, match=f"There is no adapter version '{ref}'; `turntable adapters list`"):
        registry.snapshot.resolve(AdapterRef.parse(ref))


def test_a_state_is_kept_with_its_reason(registry: Registry) -> None:
    moved = registry.set_state(add_ready(registry, 1), State.QUARANTINED, "the engine refused it", actor="ops")
    assert (moved.state, moved.reason) == (State.QUARANTINED, "the engine refused it")
    assert registry.snapshot.resolve(AdapterRef(NAME, version=1)) == moved


def test_the_state_of_a_version_that_is_not_there_cannot_be_set(registry: Registry) -> None:
    stranger = Version(NAME, 7, "0" * 64, State.REGISTERED, "", manifest(0))
    with pytest.raises(UnknownAdapterError):
        registry.set_state(stranger, State.READY, "", actor="ops")
    assert registry.audit() == []


@pytest.mark.parametrize("state", [State.REGISTERED, State.QUARANTINED])
def test_only_a_ready_version_can_be_promoted(registry: Registry, state: State) -> None:
    registry.set_state(registry.add(NAME, manifest(1), actor="ops"), state, "no effect", actor="ops")
    with pytest.raises(NotReadyError, match=f"{NAME}@v1 is {state}: no effect; only a ready version can be promoted"):
        registry.promote(NAME, 1, actor="ops")
    assert registry.snapshot.live == {}


def test_an_unknown_version_cannot_be_promoted(registry: Registry) -> None:
    add_ready(registry, 1)
    with pytest.raises(UnknownAdapterError):
        registry.promote(NAME, 2, actor="ops")
    with pytest.raises(UnknownAdapterError):
        registry.promote("nobody", 1, actor="ops")


def test_promoting_moves_the_name_to_the_version(registry: Registry) -> None:
    first, second = add_ready(registry, 1), add_ready(registry, 2)
    assert registry.promote(NAME, 1, actor="ops") == first == live(registry)
    assert registry.promote(NAME, 2, actor="ops") == second == live(registry)


def test_a_version_that_left_ready_is_not_among_the_live_ones(registry: Registry) -> None:
    other = add_ready(registry, 2, "other")
    version = add_ready(registry, 1)
    registry.promote("other", 1, actor="ops")
    registry.promote(NAME, 1, actor="ops")
    assert registry.snapshot.live_versions() == [other, version]
    registry.set_state(version, State.QUARANTINED, "its bytes changed", actor="ops")
    assert registry.snapshot.live_versions() == [other]


def test_compare_and_swap_is_won_by_who_knows_the_live_version(registry: Registry) -> None:
    add_ready(registry, 1)
    second = add_ready(registry, 2)
    registry.promote(NAME, 1, actor="ops")
    assert registry.promote(NAME, 2, actor="ops", expect_live=1) == live(registry) == second


@pytest.mark.parametrize("before", [None, 2], ids=["nothing live", "another live"])
def test_compare_and_swap_is_lost_with_a_stale_expectation(registry: Registry, before: int | None) -> None:
    for content in (1, 2, 3):
        add_ready(registry, content)
    if before:
        registry.promote(NAME, before, actor="ops")
    audit = registry.audit()
    with pytest.raises(StaleLiveError, match=f"v1 is not the live version of {NAME} any more; look again and retry"):
        registry.promote(NAME, 3, actor="ops", expect_live=1)
    assert registry.snapshot.live == ({NAME: before} if before else {})
    assert registry.audit() == audit


@pytest.mark.parametrize("shared", [True, False], ids=["one registry", "a registry each"])
def test_of_promotions_that_expect_the_same_live_version_exactly_one_wins(database: Engine, shared: bool) -> None:
    contenders = range(2, 8)
    registry = Registry(database)
    for content in (1, *contenders):
        add_ready(registry, content)
    registry.promote(NAME, 1, actor="ops")
    registries = {number: registry if shared else Registry(database) for number in contenders}
    together = threading.Barrier(len(contenders))

    def promote(number: int) -> int | None:
        together.wait()
        try:
            return registries[number].promote(NAME, number, actor=f"ops{number}", expect_live=1).version
        except StaleLiveError:
            return None

    with ThreadPoolExecutor(len(contenders)) as pool:
        winners = [number for number in pool.map(promote, contenders) if number is not None]
    assert len(winners) == 1
    assert Registry(database).snapshot.live == {NAME: winners[0]}
    promotions = [entry["actor"] for entry in registry.audit() if entry["action"] == "promote"]
    assert promotions == [f"ops{winners[0]}", "ops"]


def test_versions_added_at_the_same_time_are_numbered_without_gaps(registry: Registry) -> None:
    together = threading.Barrier(6)

    def add(content: int) -> int:
        together.wait()
        return registry.add(NAME, manifest(content), actor="ops").version

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(add, range(6))) == [1, 2, 3, 4, 5, 6]


def test_a_snapshot_never_changes_and_is_replaced(registry: Registry) -> None:
    add_ready(registry, 1)
    before = registry.snapshot
    registry.promote(NAME, 1, actor="ops")
    add_ready(registry, 2)
    assert (len(before.versions[NAME]), before.live) == (1, {})
    assert (len(registry.snapshot.versions[NAME]), registry.snapshot.live) == (2, {NAME: 1})
    with pytest.raises(FrozenInstanceError):
        before.live = {}  # type: ignore[misc]


def test_readers_never_see_what_could_not_be_committed(database: Engine, registry: Registry) -> None:
    add_ready(registry, 1)
    before = registry.snapshot

    def refuse(_: Connection) -> None:
        raise OSError("the disk is full")

    event.listen(database, "commit", refuse)
    with pytest.raises(OSError, match="the disk is full"):
        registry.promote(NAME, 1, actor="ops")
    event.remove(database, "commit", refuse)
    assert registry.snapshot is before
    assert Registry(database).snapshot.live == {}
    assert registry.promote(NAME, 1, actor="ops") == live(registry)


def test_everything_is_there_again_after_a_restart(database: Engine, registry: Registry) -> None:
    add_ready(registry, 1)
    registry.set_state(registry.add(NAME, manifest(2), actor="ops"), State.QUARANTINED, "no effect", actor="ops")
    registry.promote(NAME, 1, actor="ops")
    again = Registry(database)
    assert again.snapshot == registry.snapshot
    assert again.audit() == registry.audit()
    assert again.add(NAME, manifest(3), actor="ops").version == 3


def test_a_manifest_comes_back_whole(database: Engine, registry: Registry) -> None:
    stored = registry.add(NAME, manifest(1), actor="ops").manifest
    (version,) = Registry(database).snapshot.versions[NAME]
    assert version.manifest == stored


def test_the_audit_log_says_who_did_what_on_which_evidence(registry: Registry) -> None:
    began = datetime.now(UTC)
    version = registry.add(NAME, manifest(1), actor="trainer")
    registry.set_state(version, State.READY, "", actor="gateway")
    registry.promote(NAME, 1, actor="ops")
    registry.promote(NAME, 1, actor="ops", expect_live=1)
    entries = registry.audit()
    assert [(entry["actor"], entry["action"], entry["subject"], entry["evidence"]) for entry in entries] == [
        ("ops", "promote", f"{NAME}@v1", {"expect_live": 1}),
        ("ops", "promote", f"{NAME}@v1", {"expect_live": None}),
        ("gateway", "ready", f"{NAME}@v1", {"reason": ""}),
        ("trainer", "add", f"{NAME}@v1", {"digest": version.digest}),
    ]
    assert all(began <= entry["at"] <= datetime.now(UTC) for entry in entries)
    assert registry.audit(limit=2) == entries[:2]
