"""Databases for tests: an SQLite file, and a real PostgreSQL that the run starts for itself."""

import itertools
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect

from gateway.database import open_database
from tests.waiting import wait_until

_DISCONNECT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_KEPT = ("alembic_version", "keys_revision", "registry_revision", "usage_summed")
_NO_CARE = ("fsync", "full_page_writes", "synchronous_commit")  # a test's data needs not survive a power cut


class Postgres:
    """A running PostgreSQL server, reachable by its socket alone."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._url = url = str(server.get_uri())
        self._numbers = itertools.count(1)
        self._admin = create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
        with self._admin.connect() as connection:
            for setting in _NO_CARE:
                connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        self._shared = self._create("shared")
        open_database(self._shared).dispose()
        self._cleaner = create_engine(self._shared, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
        tables = set(inspect(self._cleaner).get_table_names()) - set(_KEPT)
        self._clean = f"TRUNCATE {', '.join(sorted(tables))} RESTART IDENTITY"

    def empty(self) -> str:
        """The URL of a new database without any table."""
        return self._create(f"test_{next(self._numbers)}")

    def migrated(self) -> str:
        """The URL of the one database that has the tables; they are empty now, and who was connected no longer is."""
        with self._cleaner.connect() as connection:
            connection.exec_driver_sql(_DISCONNECT)
            connection.exec_driver_sql(self._clean)
            connection.exec_driver_sql("UPDATE registry_revision SET revision = 0")
            connection.exec_driver_sql("UPDATE keys_revision SET revision = 0, pepper_check = NULL")
            connection.exec_driver_sql(
                "UPDATE usage_summed SET until_hour = 0, requests = 0, unsettled = 0, kept_from_hour = 0"
            )
        return self._shared

    def stop(self) -> None:
        """Stop the server, whoever is connected."""
        pid = self._server.get_pid()
        os.kill(pid, signal.SIGINT)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Have the server neither answer nor close a connection until the block ends."""
        pid = self._server.get_pid()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pids = [pid, *map(int, children)]
        for each in pids:
            os.kill(each, signal.SIGSTOP)
        try:
            yield
        finally:
            for each in pids:
                os.kill(each, signal.SIGCONT)

    def close(self) -> None:
        """Let go of the server."""
        self._admin.dispose()
        self._cleaner.dispose()

    def _create(self, name: str) -> str:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return self._url.replace("/postgres?", f"/{name}?")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL server on a directory of its own; both are gone afterwards.

    As root the server runs as another user, and pytest's own folders are closed to that one whenever a run begins.
    """
    if sys.version_info >= (3, 13):
        pytest.skip("pgserver has no wheels for Python 3.13; Python 3.11 and 3.12 run the tests on PostgreSQL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import, when there is no runtime directory
        from pgserver.postgres_server import get_server
    server = get_server(tempfile.mkdtemp(prefix="turntable-postgres-"), cleanup_mode="delete")
    postgres = Postgres(server)
    try:
        yield postgres
    finally:
        postgres.close()
        server.cleanup()
