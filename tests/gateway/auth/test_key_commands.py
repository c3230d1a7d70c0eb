"""`turntable keys` and `turntable tenants` against a running gateway: what they print, and how they refuse."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.cli import keys, tenants
from gateway.settings import Settings
from tests.gateway.conftest import KEY, running_gateway


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway whose engine does not run: keys need none."""
    with running_gateway(Settings(data_dir=tmp_path_factory.mktemp("commands")), "http://127.0.0.1:9") as url:
        yield url


def run(url: str, app: typer.Typer, *arguments: str) -> Result:
    environment = {"TURNTABLE_GATEWAY_URL": url, "TURNTABLE_ADMIN_KEY": KEY, "COLUMNS": "240"}
    return CliRunner().invoke(app, [*arguments], env=environment)


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_key_is_printed_once_and_alone_and_lives_through_every_command(url: str) -> None:
    limits = ("--rpm", "60", "--max-tokens", "512", "--budget", "25/month", "--budget", "3/day")
    rights = ("--tenant", "acme", "--adapter", "support-*", "--adapter", "base", "--expires", "30d")
    made = run(url, keys.app, "create", "triage", *rights, *limits)
    assert made.exit_code == 0, made.output
    key_id = made.stdout.split("-")[1]
    assert made.stdout.startswith(f"tt-{key_id}-")
    assert made.stdout.count("\n") == 1
    assert key_id in made.stderr
    assert made.stdout.strip() not in made.stderr
    shown = answer(run(url, keys.app, "show", key_id, "--json"))
    assert shown["adapters"] == ["support-*", "base"]
    assert shown["budgets"] == [{"usd": "25", "period": "month"}, {"usd": "3", "period": "day"}]
    left = datetime.fromisoformat(shown["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    changed = answer(
        run(url, keys.app, "change", key_id, "--rpm", "none", "--budget", "none", "--expires", "none", "--json")
    )
    assert [changed[name] for name in ("rpm", "max_tokens", "budgets", "expires_at")] == [None, 512, [], None]
    rotated = answer(run(url, keys.app, "rotate", key_id, "--overlap", "24h", "--json"))
    assert rotated["key"].startswith(f"tt-{key_id}-")
    assert rotated["key"] != made.stdout.strip()
    assert answer(run(url, keys.app, "expire", key_id, "--json"))["state"] == "expired"
    assert answer(run(url, keys.app, "expire", key_id, "--at", "none", "--json"))["state"] == "active"
    assert "revoked" in run(url, keys.app, "revoke", key_id).stdout
    done = answer(run(url, keys.app, "audit", key_id, "--json"))
    assert len(done) == 6
    assert {entry["subject"] for entry in done} == {f"key:{key_id}"}
    listed = run(url, keys.app, "list", "--tenant", "acme")
    assert key_id in listed.stdout
    assert "support-*, base" in listed.stdout
    assert rotated["key"][-32:] not in listed.output
    assert answer(run(url, keys.app, "list", "--tenant", "nobody", "--json")) == []


def test_a_tenant_is_set_changed_listed_and_deleted(url: str) -> None:
    table = run(url, tenants.app, "set", "widgets", "--tpm", "9000", "--max-tokens", "64", "--budget", "$100/month")
    assert "9,000 tpm, 64 tokens each" in table.stdout
    assert "$100/month" in table.stdout
    (changed,) = answer(run(url, tenants.app, "change", "widgets", "--rpm", "7", "--json"))
    assert (changed["rpm"], changed["tpm"]) == (7, 9000)
    (shown,) = answer(run(url, tenants.app, "show", "widgets", "--json"))
    assert answer(run(url, tenants.app, "list", "--json")) == [changed]
    assert shown.items() >= {"name": "widgets", "rpm": 7, "tpm": 9000}.items()
    assert "$100.00 of the month" in run(url, tenants.app, "show", "widgets").stdout
    assert run(url, tenants.app, "delete", "widgets").exit_code == 0
    assert answer(run(url, tenants.app, "list", "--json")) == []


NO_LIMIT = (
    "'{}' is not a limit for --{}; give a whole number from 1, or none for no limit (a budget of 0/total blocks all "
    "requests)."
)


@pytest.mark.parametrize(
    ("app", "arguments", "sentence"),
    [
        (keys.app, ("show", "nobody"), "There is no key 'nobody'; `turntable keys list` shows the ids of all."),
        (
            keys.app,
            ("create", "x", "--budget", "25"),
            "'25' is not a budget; write it like 25/month, 3/day or 100/total.",
        ),
        (keys.app, ("create", "x", "--rpm", "0"), NO_LIMIT.format("0", "rpm")),
        (keys.app, ("change", "x", "--tpm", "-1"), NO_LIMIT.format("-1", "tpm")),
        (keys.app, ("change", "x", "--max-tokens", "1e3"), NO_LIMIT.format("1e3", "max-tokens")),
        (tenants.app, ("set", "x", "--max-concurrency", "0"), NO_LIMIT.format("0", "max-concurrency")),
        (
            keys.app,
            ("create", "x", "--expires", "soon"),
            "'soon' is not an expiry time; write it like 2027-01-01, 30d or none.",
        ),
        (keys.app, ("rotate", "x", "--overlap", "1w"), "'1w' is not a duration; write it like 90s, 15m, 24h or 7d."),
        (tenants.app, ("show", "x"), "The tenant 'x' has no limits or budgets; `turntable tenants list` shows all."),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    url: str, app: typer.Typer, arguments: tuple[str, ...], sentence: str
) -> None:
    result = run(url, app, *arguments)
    assert (result.exit_code, result.stderr, result.stdout) == (2, f"error: {sentence}\n", "")


def test_the_audit_of_keys_holds_keys_alone(url: str) -> None:
    run(url, keys.app, "create", "audited")
    run(url, tenants.app, "change", "audited", "--rpm", "5")
    subjects = {entry["subject"].partition(":")[0] for entry in answer(run(url, keys.app, "audit", "--json"))}
    assert subjects == {"key"}
    assert "audited" in run(url, keys.app, "audit", "--limit", "5").stdout
