"""An API key service over a database of each kind, and drafts of keys."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from gateway.auth import ApiKeyService, Caller, KeyRecord, Limits, Scope

ADMIN_KEY, PEPPER = "tt-the-admins", "p" * 64
DRAFT = KeyRecord(
    id="",
    name="triage",
    tenant="acme",
    scopes=frozenset({Scope.INFERENCE}),
    adapters=("*",),
    limits=Limits(),
    budgets=(),
    digest=b"",
    created_us=0,
)


class Gateways:
    """Several gateways' key offices on one database."""

    def __init__(self, database: Engine) -> None:
        self.database = database
        self.one, self.other = (self.open() for _ in range(2))

    def open(self, pepper: str = PEPPER) -> ApiKeyService:
        """One more gateway."""
        return ApiKeyService(self.database, ADMIN_KEY, pepper)

    def create(self, **fields: Any) -> tuple[KeyRecord, str]:
        """A key given out by the first gateway."""
        return self.one.create(replace(DRAFT, **fields), actor="admin")


def caller_of(office: ApiKeyService, key: str) -> Caller:
    return office.keyring.authenticate({b"authorization": b"Bearer " + key.encode()})


@pytest.fixture
def gateways(database: Engine) -> Gateways:
    return Gateways(database)
