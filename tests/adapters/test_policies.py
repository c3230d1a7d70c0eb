"""Traffic policies: what canary, shadow, pin, rollback and retirement allow, refuse, keep and write down."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from adapters import (
    InUseError,
    NotReadyError,
    PolicyError,
    Registry,
    StaleLiveError,
    State,
    TrafficPolicy,
    TrafficSplit,
    UnknownAdapterError,
)
from tests.adapters.versions import NAME, add_ready, manifest


@pytest.fixture
def three(registry: Registry) -> Registry:
    """Three READY versions, the first one live."""
    for content in (1, 2, 3):
        add_ready(registry, content)
    registry.promote(NAME, 1, actor="ops")
    return registry


def policy(registry: Registry) -> TrafficPolicy:
    return registry.snapshot.policies[NAME]


def actions(registry: Registry) -> list[tuple[str, str]]:
    return [(entry["action"], entry["subject"]) for entry in registry.audit()]


def test_a_new_name_has_a_policy_that_serves_nothing(registry: Registry) -> None:
    add_ready(registry, 1)
    assert policy(registry) == TrafficPolicy()
    assert registry.snapshot.routed_versions() == []


def test_a_rollback_returns_to_what_was_live_before(three: Registry) -> None:
    three.promote(NAME, 3, actor="ops")
    assert policy(three) == TrafficPolicy(live=3, previous=1)
    assert three.rollback(NAME, actor="watch", evidence={"error_rate": 0.5}).version == 1
    assert policy(three) == TrafficPolicy(live=1)
    assert three.audit(limit=1)[0] | {"id": 0, "at": None} == {
        "id": 0,
        "at": None,
        "actor": "watch",
        "action": "rollback",
        "subject": f"{NAME}@v1",
        "evidence": {"error_rate": 0.5, "from": 3},
    }


def test_two_rollbacks_do_not_bring_the_bad_version_back(three: Registry) -> None:
    three.promote(NAME, 2, actor="ops")
    three.rollback(NAME, actor="watch")
    with pytest.raises(PolicyError, match="no earlier version to roll back to; promote one instead"):
        three.rollback(NAME, actor="watch")
    assert policy(three) == TrafficPolicy(live=1)


def test_promoting_what_is_live_already_keeps_what_was_before_it(three: Registry) -> None:
    three.promote(NAME, 2, actor="ops")
    three.promote(NAME, 2, actor="ops")
    assert policy(three) == TrafficPolicy(live=2, previous=1)


def test_only_a_ready_version_is_rolled_back_to(three: Registry) -> None:
    three.promote(NAME, 2, actor="ops")
    three.set_state(three.snapshot.versions[NAME][0], State.QUARANTINED, "no effect", actor="ops")
    with pytest.raises(NotReadyError, match=f"{NAME}@v1 is quarantined: no effect; only a ready version can be rolled"):
        three.rollback(NAME, actor="ops")
    assert policy(three) == TrafficPolicy(live=2, previous=1)


def test_a_canary_and_a_shadow_are_routed_beside_the_live_version(three: Registry) -> None:
    three.set_canary(NAME, 2, 10, actor="ops")
    three.set_shadow(NAME, 3, 0.5, actor="ops")
    assert policy(three) == TrafficPolicy(live=1, canary=TrafficSplit(2, 10.0), shadow=TrafficSplit(3, 0.5))
    assert three.snapshot.routed_versions() == list(three.snapshot.versions[NAME])
    assert three.clear_canary(NAME, actor="ops") == TrafficPolicy(live=1, shadow=TrafficSplit(3, 0.5))
    assert three.clear_shadow(NAME, actor="ops") == policy(three) == TrafficPolicy(live=1)
    assert actions(three)[:4] == [
        ("clear_shadow", f"{NAME}@v3"),
        ("clear_canary", f"{NAME}@v2"),
        ("shadow", f"{NAME}@v3"),
        ("canary", f"{NAME}@v2"),
    ]


def test_clearing_what_is_not_there_changes_nothing(three: Registry) -> None:
    before = three.audit()
    assert three.clear_canary(NAME, actor="ops") == three.clear_shadow(NAME, actor="ops") == TrafficPolicy(live=1)
    assert three.audit() == before


def test_a_canary_begins_and_ends_only_beside_the_versions_that_are_expected(three: Registry) -> None:
    three.promote(NAME, 3, actor="ops")
    with pytest.raises(StaleLiveError, match="v1 is not the live version"):
        three.set_canary(NAME, 2, 10, actor="late", expect_live=1, keep={"bounds": {"min_requests": 3}})
    assert policy(three) == TrafficPolicy(live=3, previous=1)
    assert three.evidence(NAME, 2) == []
    three.set_canary(NAME, 2, 10, actor="ops", expect_live=3, keep={"bounds": {"min_requests": 3}})
    assert [(kept.kind, kept.document) for kept in three.evidence(NAME, 2)] == [("bounds", {"min_requests": 3})]
    for live, canary in ((1, 2), (3, 1)):
        with pytest.raises(StaleLiveError, match="look again and retry"):
            three.clear_canary(NAME, actor="watch", expect_live=live, expect_canary=canary)
    assert policy(three).canary == TrafficSplit(2, 10.0)
    assert three.clear_canary(NAME, actor="watch", expect_live=3, expect_canary=2).canary is None
    with pytest.raises(StaleLiveError):
        three.clear_canary(NAME, actor="watch", expect_canary=2)


@pytest.mark.parametrize("end", ["promote", "rollback"])
def test_a_version_that_becomes_live_is_no_longer_canary_or_shadow(three: Registry, end: str) -> None:
    three.promote(NAME, 3, actor="ops")
    three.set_canary(NAME, 1, 10, actor="ops")
    three.set_shadow(NAME, 1, 10, actor="ops")
    if end == "promote":
        three.promote(NAME, 1, actor="ops")
    else:
        three.rollback(NAME, actor="ops")
    assert (policy(three).live, policy(three).canary, policy(three).shadow) == (1, None, None)


def test_the_canary_of_another_version_outlives_a_promotion(three: Registry) -> None:
    three.set_canary(NAME, 2, 10, actor="ops")
    three.promote(NAME, 3, actor="ops")
    assert policy(three) == TrafficPolicy(live=3, previous=1, canary=TrafficSplit(2, 10.0))


def test_a_version_that_leaves_ready_loses_its_traffic(three: Registry) -> None:
    three.set_canary(NAME, 2, 10, actor="ops")
    three.set_shadow(NAME, 2, 10, actor="ops")
    three.set_state(three.snapshot.versions[NAME][1], State.QUARANTINED, "errors", actor="watch")
    assert policy(three) == TrafficPolicy(live=1)


@pytest.mark.parametrize("percent", [0, -1, 100.1, float("nan"), float("inf")])
@pytest.mark.parametrize("split", [Registry.set_canary, Registry.set_shadow])
def test_a_share_is_more_than_nothing_and_at_most_all(
    three: Registry, split: Callable[..., TrafficPolicy], percent: float
) -> None:
    before = three.audit()
    with pytest.raises(PolicyError, match="percent is no share of traffic; give more than 0 and at most 100"):
        split(three, NAME, 2, percent, actor="ops")
    assert (policy(three), three.audit()) == (TrafficPolicy(live=1), before)


@pytest.mark.parametrize("split", [Registry.set_canary, Registry.set_shadow])
def test_a_split_needs_another_ready_version_beside_a_live_one(
    registry: Registry, split: Callable[..., TrafficPolicy]
) -> None:
    with pytest.raises(UnknownAdapterError):
        split(registry, NAME, 1, 10, actor="ops")
    add_ready(registry, 1)
    with pytest.raises(PolicyError, match="no live version to share traffic with; promote one first"):
        split(registry, NAME, 1, 10, actor="ops")
    registry.promote(NAME, 1, actor="ops")
    with pytest.raises(PolicyError, match="v1 is live and takes all traffic already"):
        split(registry, NAME, 1, 10, actor="ops")
    registry.add(NAME, manifest(2), actor="ops")
    with pytest.raises(NotReadyError, match=f"{NAME}@v2 is registered; only a ready version"):
        split(registry, NAME, 2, 10, actor="ops")
    assert policy(registry) == TrafficPolicy(live=1)


def test_the_live_version_of_a_pinned_name_stays_resident(three: Registry) -> None:
    assert three.set_pinned(NAME, True, actor="ops").pinned
    assert three.snapshot.pinned_versions() == [three.snapshot.versions[NAME][0]]
    three.promote(NAME, 2, actor="ops")
    assert three.snapshot.pinned_versions() == [three.snapshot.versions[NAME][1]]
    assert not three.set_pinned(NAME, False, actor="ops").pinned
    assert three.snapshot.pinned_versions() == []
    assert actions(three)[:3:2] == [("unpin", NAME), ("pin", NAME)]


def test_no_more_names_are_pinned_than_the_limit(three: Registry) -> None:
    add_ready(three, 4, "other")
    three.set_pinned(NAME, True, actor="ops", limit=1)
    three.set_pinned(NAME, True, actor="ops", limit=1)
    with pytest.raises(PolicyError, match="1 adapters are pinned and 1 may be; unpin another one first"):
        three.set_pinned("other", True, actor="ops", limit=1)
    with pytest.raises(UnknownAdapterError, match="There is no adapter 'nobody'"):
        three.set_pinned("nobody", True, actor="ops")


@pytest.mark.parametrize("use", ["live", "canary", "shadow"])
def test_a_version_that_takes_traffic_cannot_be_retired(three: Registry, use: str) -> None:
    three.set_canary(NAME, 2, 10, actor="ops")
    three.set_shadow(NAME, 3, 10, actor="ops")
    number = {"live": 1, "canary": 2, "shadow": 3}[use]
    before = three.snapshot, three.audit()
    with pytest.raises(InUseError, match=f"{NAME}@v{number} takes traffic; promote another version or end its split"):
        three.retire(NAME, number, actor="ops")
    assert (three.snapshot.versions, three.audit()) == (before[0].versions, before[1])


def test_a_retired_version_comes_back_only_by_publishing_it_again(three: Registry) -> None:
    three.promote(NAME, 2, actor="ops")
    assert three.retire(NAME, 1, actor="ops", reason="superseded").state is State.RETIRED
    with pytest.raises(NotReadyError, match=f"{NAME}@v1 is retired; publish its content again"):
        three.set_state(three.snapshot.versions[NAME][0], State.READY, "", actor="ops")
    with pytest.raises(NotReadyError, match=f"{NAME}@v1 is retired: superseded; only a ready version can be rolled"):
        three.rollback(NAME, actor="ops")
    with pytest.raises(NotReadyError):
        three.retire(NAME, 1, actor="ops")
    again = three.add(NAME, manifest(1), actor="trainer")
    assert (again.version, again.state, again.reason) == (1, State.REGISTERED, "")


def test_the_history_of_a_version_is_every_state_it_was_in(three: Registry) -> None:
    version = three.snapshot.versions[NAME][1]
    three.set_state(version, State.QUARANTINED, "errors", actor="watch", evidence={"rate": 0.5})
    three.set_canary(NAME, 3, 10, actor="ops")
    three.retire(NAME, 2, actor="ops", reason="superseded")
    three.add(NAME, version.manifest, actor="trainer")
    changes = three.history(NAME, 2)
    assert [(change.state, change.actor, change.reason) for change in changes] == [
        (State.REGISTERED, "ops", ""),
        (State.READY, "ops", ""),
        (State.QUARANTINED, "watch", "errors"),
        (State.RETIRED, "ops", "superseded"),
        (State.REGISTERED, "trainer", ""),
    ]
    assert changes[2].evidence["rate"] == 0.5
    assert [change.at for change in changes] == sorted(change.at for change in changes)
    assert three.history(NAME, 9) == []


def test_the_audit_log_can_be_asked_about_one_name_or_one_version(three: Registry) -> None:
    for name in (f"{NAME}-2", "support_triage", NAME[:-1]):
        add_ready(three, 9, name)
    three.set_pinned(NAME, True, actor="ops")
    about_name = {entry["subject"] for entry in three.audit(subject=NAME)}
    assert about_name == {NAME, *(f"{NAME}@v{number}" for number in (1, 2, 3))}
    assert {entry["subject"] for entry in three.audit(subject=f"{NAME}@v1")} == {f"{NAME}@v1"}
    assert {entry["subject"] for entry in three.audit(subject="support_triage")} == {"support_triage@v1"}


def test_the_newest_evidence_of_each_kind_is_kept_with_the_version(three: Registry, database: Engine) -> None:
    version = three.snapshot.versions[NAME][0]
    three.record_evidence(version, "probe", {"largest_delta": 0.0}, actor="gateway")
    three.record_evidence(version, "parity", {"verdict": "pass"}, actor="gateway")
    three.record_evidence(version, "probe", {"largest_delta": 1.5}, actor="gateway")
    kept = Registry(database).evidence(NAME, 1)
    assert [(found.kind, found.actor, found.document) for found in kept] == [
        ("parity", "gateway", {"verdict": "pass"}),
        ("probe", "gateway", {"largest_delta": 1.5}),
    ]
    told = [entry["evidence"] for entry in three.audit(subject=f"{NAME}@v1") if entry["action"] == "record"]
    assert [entry.get("largest_delta") for entry in told] == [1.5, None, 0.0]
    assert three.evidence(NAME, 2) == []


def test_evidence_that_is_not_a_number_is_kept_as_nothing(three: Registry) -> None:
    three.record_evidence(three.snapshot.versions[NAME][0], "probe", {"delta": float("nan")}, actor="gateway")
    (kept,) = three.evidence(NAME, 1)
    assert kept.document == {"delta": None}


def test_a_reason_may_hold_whatever_an_engine_says(three: Registry) -> None:
    reason = "tensor \0 of \ud800 broke\nthe engine"
    three.set_state(three.snapshot.versions[NAME][1], State.QUARANTINED, reason, actor="gateway")
    assert three.snapshot.versions[NAME][1].reason == "tensor \ufffd of \ufffd broke\nthe engine"
