"""Measures what keys cost among ten thousand of them on SQLite, for docs/keys.md: `python -m docs.measure_keys`.

Every figure is the best of the repeats.
"""

import tempfile
import timeit
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from gateway.auth import ApiKeyService, KeyRecord, Keyring, Limits, Scope, Tenant
from gateway.auth.secrets import KeyHash, new_id, new_key
from gateway.auth.tables import begin_change, store_pepper_check, write_key
from gateway.database import open_database
from gateway.errors import AuthenticationError

KEYS, REPEATS = 10_000, 15
ADMIN_KEY, PEPPER = new_key("administrator"), "p" * 64
DRAFT = KeyRecord(
    id="",
    name="measured",
    tenant="acme",
    scopes=frozenset({Scope.INFERENCE}),
    adapters=("*",),
    limits=Limits(rpm=60),
    budgets=(),
    digest=b"",
    created_us=0,
)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        database = open_database(f"sqlite:///{Path(scratch) / 'turntable.db'}")
        key_hash, secrets = KeyHash(PEPPER), [new_key(new_id()) for _ in range(KEYS)]
        with database.begin() as connection:
            revision, _ = begin_change(connection)
            store_pepper_check(connection, key_hash.check)
            for secret in secrets:
                digest = key_hash.digest(secret.encode())
                write_key(connection, replace(DRAFT, id=secret.split("-")[1], digest=digest), revision)
        office = ApiKeyService(database, ADMIN_KEY, PEPPER)
        measure_lookups(office.keyring, secrets[KEYS // 2])
        measure_changes(office, lambda: ApiKeyService(database, ADMIN_KEY, PEPPER))
        database.dispose()


def measure_lookups(keyring: Keyring, secret: str) -> None:
    """What a request pays."""
    for what, key in (("the admin key", ADMIN_KEY), (f"one key of {KEYS:,}", secret)):
        show(what, partial(keyring.authenticate, _headers(key)), calls=20_000)

    def refused(headers: dict[bytes, bytes]) -> None:
        with suppress(AuthenticationError):
            keyring.authenticate(headers)

    for what, key in (("its id with a wrong secret", secret[:-1] + "-"), ("an id that nobody has", new_key(new_id()))):
        show(what, partial(refused, _headers(key)), calls=20_000)


def _headers(key: str) -> dict[bytes, bytes]:
    return {b"host": b"x", b"content-type": b"application/json", b"authorization": f"Bearer {key}".encode()}


def measure_changes(office: ApiKeyService, start: Callable[[], object]) -> None:
    """What operators and the heart pay."""
    limits = iter(range(1, 1000))
    show("look for changes, none there", office.refresh, calls=200)
    show("give out a key", lambda: office.create(DRAFT, actor="admin"), calls=5)
    tenant = Tenant("acme", Limits(), (), 0)
    show(
        "change a tenant of all keys",
        lambda: office.put_tenant(replace(tenant, limits=Limits(rpm=next(limits))), actor="admin"),
        calls=1,
    )
    show("read all keys at start", start, calls=1)


def show(what: str, work: Callable[[], object], *, calls: int) -> None:
    """Time `work` and print a line."""
    best_s = min(timeit.repeat(work, number=calls, repeat=REPEATS)) / calls
    print(f"{what:<60} {best_s * 1e6:>12,.2f} us")


if __name__ == "__main__":
    main()
