"""The database: one SQLAlchemy engine, brought to the newest schema at start, and what it means when it is away."""

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
"""What SQLAlchemy raises when a database does not answer, takes no writes, or has no room."""
_GONE = "was moved, deleted or replaced while the gateway runs"
# Any number will do, as long as every gateway takes the same.
_MIGRATION_LOCK = 0x7475726E
_CONNECT_S = 10
_IDLE_CONNECTIONS = 5


def open_database(url: str) -> Engine:
    """Connect and migrate. SQLite runs in WAL mode: readers never wait for the writer, commits survive a killed
    process.
    """
    parsed = make_url(url)
    database = create_engine(
        parsed,
        json_serializer=_json,
        hide_parameters=True,  # errors are logged, hashes are not
        pool_pre_ping=parsed.get_backend_name() != "sqlite",  # its server may have been restarted meanwhile
        connect_args=_patience(parsed),
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
    """The file of an SQLite database, as it was when the database was opened. Of other databases, always in place.

    SQLite goes on writing into a file that has another name, or none, and nobody would ever read it again. So while
    the path leads to no file or to another one, nothing is read or written.
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
                f"The file of the gateway's database {_GONE}, so nothing is taken; have the operator put it back, or "
                "restart the gateway to go on with what is there now."
            )

    def check(self) -> None:
        """Log when the file disappears and when it is back; a periodic task."""
        is_in_place = self.is_in_place
        if is_in_place and not self._was_in_place:
            log.warning("the database file %s is back; the gateway goes on", self._path)
        elif not is_in_place and self._was_in_place:
            log.error("the database file %s %s; requests are refused until it is put back", self._path, _GONE)
        self._was_in_place = is_in_place

    def guard(self, database: Engine) -> None:
        """Have all work on a database end as if it did not answer while the file is not in place."""

        def demand(*_: object) -> None:
            if not self.is_in_place:
                raise OperationalError("the database file", None, FileNotFoundError(f"it {_GONE}"))

        if self._path:
            event.listen(database, "do_connect", demand)  # or SQLite would make a new file there
            event.listen(database, "checkout", demand)
            event.listen(database, "commit", demand)


def database_file(database: Engine) -> DatabaseFile:
    """The file of a database that `open_database` opened."""
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
    """What a client is told of one of `AWAY`."""
    text = str(error)
    if _GONE in text:
        return DatabaseAwayError(f"The file of the gateway's database {_GONE}; have the operator put it back.")
    if "is full" in text or "No space left" in text:
        return DatabaseAwayError("The disk of the gateway's database is full; have the operator free it and try again.")
    return DatabaseAwayError("The gateway's database does not answer; try again in a moment.")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - asked for every request, and a Path costs as much again
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _pool(url: URL) -> dict[str, Any]:
    """As many connections as threads may want one: a report never keeps a budget from being leased."""
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        return {}
    return {"pool_size": _IDLE_CONNECTIONS, "max_overflow": MOST_THREADS - _IDLE_CONNECTIONS}


def _patience(url: URL) -> dict[str, Any]:
    """A server that does not take a connection is away; without this, nobody would notice for minutes."""
    if url.get_backend_name() != "postgresql" or "connect_timeout" in url.query:
        return {}
    return {"connect_timeout": _CONNECT_S, "keepalives_idle": _CONNECT_S, "tcp_user_timeout": 1000 * _CONNECT_S}


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
