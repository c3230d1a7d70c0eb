"""Database: connect and migrate, detect a moved SQLite file, build upserts, and report an unavailable database."""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway.errors import DatabaseAwayError
from gateway.threads import MOST_THREADS

log = logging.getLogger(__name__)
AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeoutError)
"""SQLAlchemy's errors of a database that does not answer, is read-only, or is full."""
_GONE = "was moved, deleted or replaced while the gateway runs"
# An arbitrary number, the same in every gateway.
_MIGRATION_LOCK = 0x7475726E
_CONNECT_S = 10
_IDLE_CONNECTIONS = 5


def open_database(url: str) -> Engine:
    """Connect to the database and migrate it to the current schema.

    SQLite runs in WAL mode: readers never wait for the writer, and commits survive a killed process.
    """
    parsed = make_url(url)
    database = create_engine(
        parsed,
        json_serializer=_json,
        hide_parameters=True,  # errors are logged, hashes are not
        pool_pre_ping=parsed.get_backend_name() != "sqlite",  # its server may have been restarted meanwhile
        connect_args=_timeouts(parsed),
        **_pool(parsed),
    )
    if database.dialect.name == "sqlite":
        event.listen(database, "connect", _set_pragmas)
    with database.begin() as connection:
        _wait_for_other_gateways(connection)
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    file = DatabaseFile(parsed)
    file.guard(database)
    database.update_execution_options(turntable_file=file)
    return database


class DatabaseFile:
    """Identity of the file of an SQLite database when it was opened; other databases are always in place.

    SQLite keeps writing to a file that was moved or deleted, and that data would be lost. So nothing is read or written
    while the path leads to no file or to another one.
    """

    def __init__(self, url: URL) -> None:
        is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
        self._path = os.path.realpath(str(url.database)) if is_file else ""
        self._identity = _identity(self._path)
        self._was_in_place = True

    @property
    def is_in_place(self) -> bool:
        """Whether the path leads to the file that was opened."""
        return not self._path or (self._identity is not None and _identity(self._path) == self._identity)

    def require(self) -> None:
        """Raise `DatabaseAwayError` unless it is in place."""
        if not self.is_in_place:
            raise DatabaseAwayError(
                f"The file of the gateway's database {_GONE}, so requests are rejected; ask the operator to restore "
                "it, or to restart the gateway with the current file."
            )

    def check(self) -> None:
        """Log when the file disappears and when it is back; a periodic task."""
        is_in_place = self.is_in_place
        if is_in_place and not self._was_in_place:
            log.warning("the database file %s is back in place", self._path)
        elif not is_in_place and self._was_in_place:
            log.error("the database file %s %s; requests are rejected until it is restored", self._path, _GONE)
        self._was_in_place = is_in_place

    def guard(self, database: Engine) -> None:
        """Raise `OperationalError` from all work on the database while the file is not in place."""

        def check_in_place(*_: object) -> None:
            if not self.is_in_place:
                raise OperationalError("the database file", None, FileNotFoundError(f"it {_GONE}"))

        if self._path:
            event.listen(database, "do_connect", check_in_place)  # SQLite would create a new file
            event.listen(database, "checkout", check_in_place)
            event.listen(database, "commit", check_in_place)


def database_file(database: Engine) -> DatabaseFile:
    """Return the `DatabaseFile` of a database that `open_database` opened."""
    file = database.get_execution_options()["turntable_file"]
    assert isinstance(file, DatabaseFile), "every database has one"
    return file


def upsert(
    dialect: str, table: Table, *, replace: Iterable[str] = (), add: Iterable[str] = (), keep: Iterable[str] = ()
) -> Any:
    """Build an INSERT that updates the row with the same primary key, for SQLite or PostgreSQL.

    Columns in `replace` take the new value, those in `add` become the sum of both, those in `keep` stay, which still
    locks the row.
    """
    insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    changes = {name: insert.excluded[name] for name in replace}
    changes |= {name: table.c[name] + insert.excluded[name] for name in add}
    changes |= {name: table.c[name] for name in keep}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changes)


def away_error(error: BaseException) -> DatabaseAwayError:
    """Translate an error of `AWAY` into the error for clients."""
    text = str(error)
    if _GONE in text:
        return DatabaseAwayError(f"The file of the gateway's database {_GONE}; ask the operator to restore it.")
    if "is full" in text or "No space left" in text:
        return DatabaseAwayError("The disk of the gateway's database is full; ask the operator to free space.")
    return DatabaseAwayError("The gateway's database does not answer; try again in a moment.")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - called for every request; a Path doubles the cost
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _pool(url: URL) -> dict[str, Any]:
    """Size the connection pool for all threads, so that a report never delays the lease of a budget."""
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        return {}
    return {"pool_size": _IDLE_CONNECTIONS, "max_overflow": MOST_THREADS - _IDLE_CONNECTIONS}


def _timeouts(url: URL) -> dict[str, Any]:
    """Set PostgreSQL's timeouts: without them, a lost server is noticed only after minutes."""
    if url.get_backend_name() != "postgresql" or "connect_timeout" in url.query:
        return {}
    return {"connect_timeout": _CONNECT_S, "keepalives_idle": _CONNECT_S, "tcp_user_timeout": 1000 * _CONNECT_S}


def _json(document: Any) -> str:
    """Write strict JSON, as PostgreSQL requires: NaN and infinity become null."""
    return orjson.dumps(document).decode()


def _wait_for_other_gateways(connection: Connection) -> None:
    """Lock the database for the migration: of gateways that start at the same time, one migrates."""
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
    """Switch a new database to WAL mode; retry, because SQLite refuses while another gateway does the same."""
    for _ in range(500):
        with contextlib.suppress(sqlite3.OperationalError):
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        time.sleep(0.01)
    cursor.execute("PRAGMA journal_mode=WAL")
