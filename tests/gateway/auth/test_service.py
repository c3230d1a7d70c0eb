"""Keys over their life, with two gateways on one database of each kind."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NoReturn

import pytest
from sqlalchemy import event, inspect, select, text
from sqlalchemy.exc import OperationalError

from adapters import Registry
from gateway.auth import ApiKeyService, Budget, Limits, Period, Tenant
from gateway.auth.records import KeyState
from gateway.auth.secrets import PepperError
from gateway.clock import HOUR_US, now_us
from gateway.errors import AuthenticationError, ConflictError, NotFoundError
from tests.gateway.auth.conftest import ADMIN_KEY, DRAFT, PEPPER, Gateways, caller_of
from tests.waiting import wait_until


def refused(office: ApiKeyService, key: str) -> str:
    with pytest.raises(AuthenticationError) as caught:
        caller_of(office, key)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    return str(caught.value)


def test_a_key_works_where_it_was_made_at_once_and_elsewhere_after_a_look(gateways: Gateways) -> None:
    made, key = gateways.create(limits=Limits(rpm=60), budgets=(Budget(5 * 10**9, Period.DAY),))
    assert key == f"tt-{made.id}-{key[-32:]}"
    caller = caller_of(gateways.one, key)
    assert (caller.key_id, caller.tenant, caller.is_admin) == (made.id, "acme", False)
    assert [account.id for account in caller.accounts] == [f"key:{made.id}", "tenant:acme"]
    assert caller.accounts[0].limits.rpm == 60
    refused(gateways.other, key)
    assert gateways.other.refresh()
    assert caller_of(gateways.other, key) == caller
    assert not gateways.other.refresh()
    assert caller_of(gateways.open(), key) == caller, "a gateway that starts later knows it from the start"


def test_a_revoked_key_ends_here_at_once_and_elsewhere_after_a_look(gateways: Gateways) -> None:
    made, key = gateways.create()
    gateways.other.refresh()
    assert gateways.other.revoke(made.id, actor="admin").state(now_us()) is KeyState.REVOKED
    assert "expired or was revoked" in refused(gateways.other, key)
    assert caller_of(gateways.one, key)
    gateways.one.refresh()
    refused(gateways.one, key)
    again = gateways.one.revoke(made.id, actor="admin")
    assert again.revoked_us == gateways.other.key(made.id).revoked_us, "a second revocation changes nothing"
    with pytest.raises(ConflictError, match="is revoked, which cannot be undone"):
        gateways.one.rotate(made.id, overlap_us=0, actor="admin")
    with pytest.raises(ConflictError, match="is revoked, which cannot be undone"):
        gateways.one.change(made.id, lambda _: {"expires_us": None}, actor="admin")
    refused(gateways.open(), key)


def test_a_rotated_key_keeps_its_id_and_its_old_secret_for_the_overlap_alone(gateways: Gateways) -> None:
    made, first = gateways.create()
    _, second = gateways.one.rotate(made.id, overlap_us=HOUR_US, actor="admin")
    assert caller_of(gateways.one, first) == caller_of(gateways.one, second)
    _, third = gateways.one.rotate(made.id, overlap_us=0, actor="admin")
    assert caller_of(gateways.one, third).key_id == made.id
    assert "expired" in refused(gateways.one, second)
    assert "Incorrect" in refused(gateways.one, first)
    _, fourth = gateways.one.rotate(made.id, overlap_us=HOUR_US, actor="admin")
    gateways.one.revoke(made.id, actor="admin")
    assert [refused(gateways.one, key) for key in (third, fourth)] == [refused(gateways.one, third)] * 2


def test_a_secret_within_its_grace_period_is_not_ended_by_another_rotation(gateways: Gateways) -> None:
    made, first = gateways.create()
    _, second = gateways.one.rotate(made.id, overlap_us=HOUR_US, actor="admin")
    with pytest.raises(ConflictError, match=r"is valid until .*, as promised .* or with overlap_s 0, which ends"):
        gateways.other.rotate(made.id, overlap_us=HOUR_US, actor="admin")
    assert caller_of(gateways.one, first) == caller_of(gateways.one, second)
    _, third = gateways.one.rotate(made.id, overlap_us=0, actor="admin")
    assert [bool(refused(gateways.one, ended)) for ended in (first, second)] == [True, True]
    _, fourth = gateways.one.rotate(made.id, overlap_us=HOUR_US, actor="admin")
    assert caller_of(gateways.one, third) == caller_of(gateways.one, fourth)


def test_a_key_ends_by_the_clock_without_anybody_doing_anything(gateways: Gateways) -> None:
    made, key = gateways.create(expires_us=now_us() + HOUR_US)
    assert caller_of(gateways.one, key)
    gateways.one.change(made.id, lambda _: {"expires_us": now_us() - 1}, actor="admin")
    assert gateways.one.key(made.id).state(now_us()) is KeyState.EXPIRED
    refused(gateways.one, key)
    gateways.one.change(made.id, lambda _: {"expires_us": None}, actor="admin")
    assert caller_of(gateways.one, key)


def test_a_tenants_limits_reach_all_its_keys_and_no_others(gateways: Gateways) -> None:
    (_, ours), (_, theirs) = gateways.create(), gateways.create(tenant="rival")
    limits, budgets = Limits(tpm=1000), (Budget(7, Period.TOTAL),)
    gateways.one.put_tenant(Tenant("acme", limits, budgets, 0), actor="admin")
    gateways.other.refresh()
    for office in (gateways.one, gateways.other):
        tenant = caller_of(office, ours).accounts[1]
        assert (tenant.limits, tenant.budgets) == (limits, budgets)
        assert caller_of(office, theirs).accounts[1].limits == Limits()
    gateways.other.change_tenant("acme", lambda was: {"limits": replace(was.limits, rpm=1)}, actor="admin")
    assert caller_of(gateways.other, ours).accounts[1].limits == Limits(rpm=1, tpm=1000)
    with pytest.raises(ConflictError, match="Tenant 'acme' has 1 active keys"):
        gateways.other.delete_tenant("acme", actor="admin")
    gateways.other.revoke(caller_of(gateways.other, ours).key_id, actor="admin")
    gateways.other.delete_tenant("acme", actor="admin")
    gateways.one.refresh()
    assert gateways.one.tenants() == []
    with pytest.raises(NotFoundError):
        gateways.one.tenant("acme")


def test_changes_of_two_gateways_do_not_undo_each_other(gateways: Gateways) -> None:
    made, _ = gateways.create()
    gateways.other.change(made.id, lambda _: {"name": "renamed"}, actor="admin")
    changed = gateways.one.change(made.id, lambda was: {"limits": replace(was.limits, rpm=5)}, actor="admin")
    assert (changed.name, changed.limits.rpm) == ("renamed", 5)


def test_keys_given_out_at_the_same_time_are_all_there_and_on_the_log(gateways: Gateways) -> None:
    offices = [gateways.one, gateways.other] * 10
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda office: office.create(DRAFT, actor="admin"), offices))
    late = gateways.open()
    gateways.one.refresh()
    gateways.other.refresh()
    for office in (gateways.one, gateways.other, late):
        assert [caller_of(office, key).key_id for _, key in given] == [made.id for made, _ in given]
    assert len(Registry(gateways.database).audit()) == len(given)


def test_another_pepper_is_one_clear_sentence_at_start_and_gives_out_no_keys(
    gateways: Gateways, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = gateways.open("q" * 64)  # there is no key yet that it could not check
    made, key = gateways.create()
    with pytest.raises(PepperError, match=r"another pepper.*key\.pepper or the setting key_pepper"):
        gateways.open("q" * 64)
    with caplog.at_level(logging.ERROR):
        stranger.refresh()
    assert "another pepper" in caplog.text
    with pytest.raises(ConflictError, match="another pepper"):
        stranger.create(made, actor="admin")
    with pytest.raises(ConflictError, match="another pepper"):
        stranger.rotate(made.id, overlap_us=0, actor="admin")
    refused(stranger, key)
    assert caller_of(stranger, ADMIN_KEY).is_admin
    assert stranger.revoke(made.id, actor="admin").revoked_us, "ending a key takes no pepper"


def test_what_is_stored_opens_nothing_and_the_audit_log_tells_who_did_what(gateways: Gateways) -> None:
    made, key = gateways.create(expires_us=now_us() + HOUR_US)
    _, second = gateways.one.rotate(made.id, overlap_us=HOUR_US, actor="robin")
    gateways.one.revoke(made.id, actor="sam")
    entries = Registry(gateways.database).audit(subject=f"key:{made.id}")
    assert [(e["actor"], e["action"]) for e in entries] == [
        ("sam", "revoke_key"),
        ("robin", "rotate_key"),
        ("admin", "create_key"),
    ]
    stored = ""
    with gateways.database.connect() as connection:
        for table in inspect(gateways.database).get_table_names():
            stored += str(connection.execute(select(text("*")).select_from(text(table))).all())
    assert made.id in stored
    digests = [record.digest.hex() for record in (made, gateways.one.key(made.id))]
    assert all(digest in stored for digest in digests)
    assert not any(digest in str(entries) for digest in digests)
    for secret in (key, second, PEPPER, ADMIN_KEY):
        assert secret[-32:] not in stored
    for digest in digests:
        refused(gateways.one, digest)
        refused(gateways.one, f"tt-{made.id}-{digest}")


def test_keys_go_on_working_while_the_database_is_away_and_still_end_by_the_clock(gateways: Gateways) -> None:
    _, key = gateways.create()
    ending, short = gateways.create(expires_us=now_us() + 100_000)
    gateways.database.dispose()

    def refuse(*_: object) -> NoReturn:
        raise OperationalError("connect", {}, ConnectionRefusedError())

    event.listen(gateways.database, "do_connect", refuse)
    with pytest.raises(OperationalError):
        gateways.one.refresh()
    with pytest.raises(OperationalError):
        gateways.one.revoke(ending.id, actor="admin")
    assert caller_of(gateways.one, key)
    wait_until(lambda: now_us() >= (ending.expires_us or 0))
    assert "expired" in refused(gateways.one, short)
    event.remove(gateways.database, "do_connect", refuse)
    assert gateways.one.revoke(ending.id, actor="admin").revoked_us
