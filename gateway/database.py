"""The database: one SQLAlchemy engine, brought to the newest schema at start."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, event


def open_database(url: str) -> Engine:
    """Connect and migrate. SQLite runs in WAL mode: readers never wait for the writer, commits survive a killed
    process.
    """
    database = create_engine(url)
    if database.dialect.name == "sqlite":
        event.listen(database, "connect", _set_pragmas)
    with database.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return database


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
