"""The database: one SQLAlchemy engine, brought to the newest schema at start."""

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import orjson
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event

# Any number will do, as long as every gateway takes the same.
_MIGRATION_LOCK = 0x7475726E


def open_database(url: str) -> Engine:
    """Connect and migrate. SQLite runs in WAL mode: readers never wait for the writer, commits survive a killed
    process.
    """
    database = create_engine(url, json_serializer=_json, hide_parameters=True)  # errors are logged, hashes are not
    if database.dialect.name == "sqlite":
        event.listen(database, "connect", _set_pragmas)
    with database.begin() as connection:
        _wait_for_other_gateways(connection)
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return database


def _json(document: Any) -> str:
    """As strict as PostgreSQL is with JSON: what is not a number is null."""
    return orjson.dumps(document).decode()


def _wait_for_other_gateways(connection: Connection) -> None:
    """Gateways that share a database may start at the same moment; one migrates, the others find it done."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=5000")
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    """Only a new database is switched; when another gateway is doing it, SQLite refuses instead of waiting."""
    for _ in range(500):
        with contextlib.suppress(sqlite3.OperationalError):
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        time.sleep(0.01)
    cursor.execute("PRAGMA journal_mode=WAL")
