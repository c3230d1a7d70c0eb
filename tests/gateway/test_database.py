"""Migrations: they make the tables that the code reads and keep what older gateways wrote, on each kind of database."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, MetaData, create_engine, inspect, text

from adapters import AdapterRef, Manifest, Registry, State
from adapters.tables import metadata
from gateway.auth.tables import metadata as key_tables
from gateway.costs.evidence import metadata as cost_tables
from gateway.database import open_database
from gateway.metering.tables import metadata as metering_tables
from gateway.quality.feedback import feedback
from gateway.quality.sampler import watched_answers
from gateway.quota.budget_leases import metadata as budget_tables
from gateway.quota.rate_sharing import limit_use


@pytest.fixture
def old_database(empty_database_url: str) -> Iterator[Engine]:
    """A database as the gateway before traffic policies left it."""
    database = create_engine(empty_database_url)
    with database.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "gateway/migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
    yield database
    database.dispose()


def test_the_migrations_make_the_tables_that_the_code_reads(database: Engine) -> None:
    known = MetaData()
    for table in (
        *metadata.tables.values(),
        *cost_tables.tables.values(),
        *metering_tables.tables.values(),
        *key_tables.tables.values(),
        feedback,
        watched_answers,
        *budget_tables.tables.values(),
        limit_use,
    ):
        table.to_metadata(known)
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = [change for change in compare_metadata(context, known) if change[0] != "remove_index"]
    assert found == []


def test_versions_and_what_is_live_survive_from_before_policies(old_database: Engine, empty_database_url: str) -> None:
    manifest = Manifest(
        digest="ab" * 32,
        r=8,
        lora_alpha=16,
        target_modules=("q_proj",),
        weights_bytes=1,
        files={},
        training={},
        created_at=datetime.now(UTC),
    )
    with old_database.begin() as connection:
        now = datetime.now(UTC).isoformat()
        connection.execute(text("INSERT INTO adapters VALUES ('tone', 1, :now)"), {"now": now})
        connection.execute(
            text("INSERT INTO adapter_versions VALUES ('tone', 1, :digest, 'ready', '', :manifest, :now)"),
            {"digest": manifest.digest, "manifest": manifest.model_dump_json(), "now": now},
        )
        columns, values = "at, actor, action, subject, evidence", ":now, 'ops', 'add', 'tone@v1', '{}'"
        connection.execute(text(f"INSERT INTO audit_log ({columns}) VALUES ({values})"), {"now": now})
    database = open_database(empty_database_url)
    registry = Registry(database)
    version = registry.snapshot.resolve(AdapterRef("tone"))
    assert (version.version, version.state, version.manifest) == (1, State.READY, manifest)
    assert [change.state for change in registry.history("tone", 1)] == [State.REGISTERED]
    assert registry.set_pinned("tone", True, actor="ops").pinned
    database.dispose()


def test_gateways_that_start_at_the_same_moment_all_find_the_newest_schema(empty_database_url: str) -> None:
    together = threading.Barrier(4)

    def start(_: int) -> set[str]:
        together.wait()
        database = open_database(empty_database_url)
        tables = set(inspect(database).get_table_names())
        database.dispose()
        return tables

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(start, range(4)))
    assert all(tables > metadata.tables.keys() for tables in found)
