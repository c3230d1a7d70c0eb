"""Which version a request goes to: exact, live, canary by a sticky share, and which requests have a shadow."""

from collections.abc import Sequence
from typing import Any

import pytest

from adapters import Registry, State, Version
from gateway.auth import Caller, Scope
from gateway.core import Track
from gateway.errors import ModelNotFoundError
from gateway.inference.routing import Resolver, choose_shadow, choose_target, routing_key

ADMIN = Caller("admin", "default", frozenset(Scope))
KEY = Caller("key-7", "acme", frozenset({Scope.INFERENCE}))
USERS = [f"user-{number}" for number in range(10_000)]


def on_canary(resolver: Resolver) -> set[str]:
    route = resolver.route("mine")
    return {user for user in USERS if choose_target(route, user).track is Track.CANARY}


def test_a_canary_gets_its_share_of_users_and_always_the_same_ones(
    registry: Registry, versions: Sequence[Version]
) -> None:
    resolver = Resolver(registry, "base")
    registry.set_canary("mine", 2, 10, actor="test")
    some = on_canary(resolver)
    assert 900 < len(some) < 1100
    assert some == on_canary(Resolver(registry, "base"))
    registry.set_canary("mine", 2, 25, actor="test")
    more = on_canary(resolver)
    assert some < more
    assert 2350 < len(more) < 2650


def test_the_next_canary_meets_other_users(registry: Registry, versions: Sequence[Version]) -> None:
    resolver = Resolver(registry, "base")
    registry.set_canary("mine", 2, 10, actor="test")
    second = on_canary(resolver)
    registry.set_canary("mine", 3, 10, actor="test")
    assert len(second & on_canary(resolver)) < 200


def test_the_answering_version_is_named_whichever_it_is(registry: Registry, versions: Sequence[Version]) -> None:
    resolver = Resolver(registry, "base")
    assert resolver.route("mine").target.engine_model == versions[0].engine_name
    registry.set_canary("mine", 2, 100, actor="test")
    target = choose_target(resolver.route("mine"), "anybody")
    assert (target.engine_model, target.model, target.label) == (versions[1].engine_name, "mine", "mine")


def test_a_ref_is_never_split_or_shadowed(registry: Registry, versions: Sequence[Version]) -> None:
    registry.set_canary("mine", 2, 100, actor="test")
    registry.set_shadow("mine", 3, 100, actor="test")
    for ref in ("mine@v1", versions[0].engine_name):
        route = Resolver(registry, "base").route(ref)
        assert choose_target(route, "anybody").version == versions[0]
        assert choose_shadow(route, "request") is None
        assert route.target.track is None


def test_a_name_without_a_canary_is_on_no_track(registry: Registry, versions: Sequence[Version]) -> None:
    route = Resolver(registry, "base").route("mine")
    assert (route.canary, route.shadow, route.target.track) == (None, None, None)


def test_the_share_of_a_shadow_is_of_requests(registry: Registry, versions: Sequence[Version]) -> None:
    registry.set_shadow("mine", 3, 20, actor="test")
    route = Resolver(registry, "base").route("mine")
    targets = [choose_shadow(route, f"req_{number:08x}") for number in range(10_000)]
    mirrored = [target for target in targets if target is not None]
    assert 1850 < len(mirrored) < 2150
    assert {(target.engine_model, target.label) for target in mirrored} == {(versions[2].engine_name, "mine (shadow)")}


def test_a_change_is_seen_by_the_next_request_and_nothing_unready_is_routed_to(
    registry: Registry, versions: Sequence[Version]
) -> None:
    resolver = Resolver(registry, "base")
    registry.set_canary("mine", 2, 100, actor="test")
    assert choose_target(resolver.route("mine"), "anybody").track is Track.CANARY
    registry.set_state(versions[1], State.QUARANTINED, "broken", actor="test")
    assert choose_target(resolver.route("mine"), "anybody").version == versions[0]
    with pytest.raises(ModelNotFoundError):
        resolver.route("mine@v2")
    with pytest.raises(ModelNotFoundError):
        resolver.route("nobody")


DEEP = '{"a":' + "[" * 300 + "]" * 300 + "}"
"""Can be read, and not be written again."""


@pytest.mark.parametrize(
    ("document", "caller", "who"),
    [
        ({"user": "ann", "safety_identifier": "hash-of-ann"}, KEY, "acme\0hash-of-ann"),
        ({"user": "ann", "prompt_cache_key": "session"}, KEY, "acme\0ann"),
        ({"prompt_cache_key": "session", "session_id": "s"}, KEY, "key-7"),
        ({"metadata": {"user_id": "ann"}}, ADMIN, "default\0ann"),
        ({"metadata": {"user_id": "user_1a_account_2b_session_3c"}}, KEY, "acme\0user_1a_account_2b"),
        ({"user": "user_1a_account__session_3c"}, KEY, "acme\0user_1a_account_"),
        (
            {"metadata": {"user_id": '{"session_id":"s","device_id":"d","account_uuid":""}'}},
            KEY,
            'acme\0{"device_id":"d"}',
        ),
        ({"metadata": {"user_id": '{"session_id":"s"}'}}, KEY, "key-7"),
        ({"metadata": {"user_id": "{ann"}}, KEY, "acme\0{ann"),
        ({"user": DEEP}, KEY, f"acme\0{DEEP}"),
        ({"user": "", "metadata": {"user_id": 3}}, KEY, "key-7"),
        ({"user": 7, "metadata": "x"}, ADMIN, "req_1"),
    ],
)
def test_a_request_sticks_to_its_end_user_else_to_the_application_else_to_nothing(
    document: dict[str, Any], caller: Caller, who: str
) -> None:
    assert routing_key(document, caller, "req_1") == who


SESSIONS = [
    '{{"device_id":"d","account_uuid":"a","session_id":"{0}"}}',
    '{{"session_id":"{0}","account_uuid":"a","device_id":"d"}}',
    "user_4f_account_5e_session_{0}",
    "user_4f_account__session_{0}",
]


@pytest.mark.parametrize("name", SESSIONS)
def test_one_person_stays_on_one_version_through_all_sessions(
    registry: Registry, versions: Sequence[Version], name: str
) -> None:
    registry.set_canary("mine", 2, 50, actor="test")
    route = Resolver(registry, "base").route("mine")
    documents = [
        {"metadata": {"user_id": name.format(session)}, "prompt_cache_key": f"conversation-{session}"}
        for session in range(200)
    ]
    assert len({choose_target(route, routing_key(document, KEY, "req_1")).track for document in documents}) == 1


@pytest.mark.parametrize("hint", [{"prompt_cache_key": "the system prompt"}, {"session_id": "one"}, {}])
def test_keys_are_divided_as_the_canary_says_whatever_they_all_send_as_a_hint(
    registry: Registry, versions: Sequence[Version], hint: dict[str, str]
) -> None:
    registry.set_canary("mine", 2, 10, actor="test")
    route = Resolver(registry, "base").route("mine")
    keys = [Caller(key_id=f"key-{number}", tenant="acme", scopes=frozenset()) for number in range(2_000)]
    tracks = [choose_target(route, routing_key(hint, key, "req_1")).track for key in keys]
    assert 150 < tracks.count(Track.CANARY) < 250
    assert tracks == [choose_target(route, routing_key(hint, key, "req_2")).track for key in keys]


def test_odd_user_names_fall_somewhere_too(registry: Registry, versions: Sequence[Version]) -> None:
    registry.set_canary("mine", 2, 50, actor="test")
    assert choose_target(Resolver(registry, "base").route("mine"), "\ud800\0").track in (Track.CANARY, Track.LIVE)
